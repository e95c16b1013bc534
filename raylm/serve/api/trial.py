"""Compiles a schema, grammar, regular expression or choice in a process of its own, which may die of it.

Some small ones take gigabytes or minutes, and no rule on their text finds them all. What the engine's library cannot do
within the limits here is refused, so that it is never tried in the engine.
"""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from typing import Any

from raylm.serve.envelope import bad_request, in_words

CPU_S = 2
MEMORY_BYTES = 1 << 30
WALL_S = 30.0
STEPS = 64


def check(kind: str, spec: str) -> None:
    """Raises Refused when `spec` (JSON; of kind json, regex, grammar or choice) is too much to compile, or is none."""
    try:
        error = _tried(kind, spec)
    except subprocess.TimeoutExpired:
        error = None
    if error is None:
        message = f"The schema or grammar is too complex: it is not compiled within {CPU_S} s and {MEMORY_BYTES >> 20} MB."
        raise bad_request(message, code="schema_too_large")
    if error:
        raise bad_request(f"The schema or grammar cannot be used: {in_words(error)}", code="invalid_schema")


@functools.lru_cache(maxsize=256)
def _tried(kind: str, spec: str) -> str | None:
    """What is wrong with it, "" when it compiles, None when its process died."""
    tried = subprocess.run(
        [sys.executable, "-m", __name__, kind], input=spec.encode(), capture_output=True, timeout=WALL_S, check=False
    )
    return tried.stdout.decode() if tried.returncode == 0 else None


def main() -> None:
    """Compile what comes on stdin and print what is wrong with it."""
    import resource

    resource.setrlimit(resource.RLIMIT_CPU, (CPU_S, CPU_S))
    resource.setrlimit(resource.RLIMIT_AS, (MEMORY_BYTES, MEMORY_BYTES))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    import llguidance

    kind: Any = sys.argv[1]
    spec = json.load(sys.stdin)
    try:
        if kind == "json":
            grammar = llguidance.LLMatcher.grammar_from_json_schema(spec, defaults={"whitespace_flexible": False})
        else:
            grammar = llguidance.grammar_from(kind, spec)
        matcher = llguidance.LLMatcher(llguidance.LLTokenizer("byte"), grammar, log_level=0)
        for _ in range(STEPS):
            if matcher.is_error() or matcher.is_stopped():
                break
            # the first byte that may come: some tables grow too large only in the middle of an answer
            mask = matcher.compute_bitmask()
            allowed = next((token for token in range(256) if mask[token // 8] >> token % 8 & 1), None)
            if allowed is None:
                break
            matcher.consume_token(allowed)
        print(matcher.get_error(), end="")
    except (ValueError, TypeError, KeyError) as error:
        print(error or "it is not valid", end="")


if __name__ == "__main__":
    main()
