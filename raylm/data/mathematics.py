r"""Whether two answers are mathematically one, by math-verify (https://github.com/huggingface/Math-Verify).

`\frac{1}{2}`, `0.5` and `50\%` are one, as are `x + y` and `y + x`, `\{1, 2\}` and `\{2, 1\}`; a half-open interval is not an
open one. Plain numbers are compared exactly, by their value (`raylm.data.numbers`), however many digits they have.
"""

from __future__ import annotations

import json
import logging
import select
import subprocess
import sys
from contextlib import suppress
from importlib.util import find_spec
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.data.answers import final
from raylm.data.numbers import number

PACKAGE = "math_verify"
_DIGITS = 30
"""Digits to which two numbers that are no plain ones (2*pi, sqrt(2)) must agree."""


class Compared(NamedTuple):
    """Whether an answer is right, and why it is not; None where the true answer cannot be read."""

    right: bool | None
    why: str


def installed() -> bool:
    """Whether math-verify is."""
    return find_spec(PACKAGE) is not None


def prepare() -> None:
    """Import math-verify, and keep it from saying in every process that its time limit is off: the deadline is the caller's."""
    for part in ("parser", "grader"):
        logging.getLogger(f"{PACKAGE}.{part}").setLevel(logging.ERROR)
    _parsed("1")


def compare(text: str, truth: str, boxed: bool = False) -> Compared:
    r"""Whether the answer in `text` is `truth`. It may take as long as it takes to simplify what a text says.

    Args:
        text: its last `\boxed{...}` counts, or else what follows `####`, or else (unless `boxed`) its last expression.
        truth: not empty.
    """
    said, wanted = final(text), final(truth)
    if said == text and boxed:
        return Compared(False, "marks no answer")
    plain = number(wanted.strip().strip("$"))
    if plain is not None and (given := number(said.strip().strip("$"))) is not None:
        return _given(given.same(plain))
    gold = _parsed(wanted)
    if not gold:
        return Compared(None, f"math-verify cannot read the ground truth {wanted[:80]!r}")
    found = _parsed(said, whole=said != text)
    if not found:
        return Compared(False, "no answer that can be read")
    return _given(_same(gold, found))


class Comparer:
    """`compare` in a process of its own: one answer that hangs it costs itself, and the next are compared in a fresh one.

    Args:
        deadline_s: for each answer.
    """

    def __init__(self, deadline_s: float = 10.0) -> None:
        if not installed():
            raise ConfigError(
                "answers are compared by the package math-verify, which is not installed", next="pip install math-verify"
            )
        self._deadline_s = deadline_s
        self._child: subprocess.Popen[str] | None = None

    def __enter__(self) -> Comparer:
        return self

    def __exit__(self, *_: object) -> None:
        if self._child is not None:
            self._child.kill()
            self._child.communicate()
            self._child = None

    def __call__(self, text: str, truth: str, boxed: bool = False) -> Compared:
        """`compare`; wrong, with the reason, where there is no verdict before the deadline."""
        child = self._alive()
        assert child.stdin is not None and child.stdout is not None
        with suppress(BrokenPipeError):
            child.stdin.write(json.dumps([text, truth, boxed]) + "\n")
            child.stdin.flush()
        ready, _, _ = select.select([child.stdout], [], [], self._deadline_s)
        line = child.stdout.readline() if ready else ""
        if not line:
            self.__exit__()
            return Compared(False, "it ended its process" if ready else f"it was not compared within {self._deadline_s:g} s")
        return Compared(*json.loads(line))

    def _alive(self) -> subprocess.Popen[str]:
        if self._child is None:
            code = f"import sys; sys.path[:] = {sys.path!r}; from raylm.data.mathematics import answer_lines; answer_lines()"
            self._child = subprocess.Popen(
                [sys.executable, "-c", code],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.DEVNULL,
                text=True,
            )
            assert self._child.stdout is not None
            # its first line says that what it needs is imported
            if not select.select([self._child.stdout], [], [], 300.0)[0] or self._child.stdout.readline() != "ready\n":
                raise ConfigError("the process that compares answers does not begin", next=f"try: import {PACKAGE}")
        return self._child


def answer_lines() -> None:
    """The child of `Comparer`: a line of JSON in, a line of JSON out."""
    import resource

    resource.setrlimit(resource.RLIMIT_DATA, (4 << 30, 4 << 30))
    prepare()
    out, sys.stdout = sys.stdout, sys.stderr
    print("ready", file=out, flush=True)
    for line in sys.stdin:
        print(json.dumps(compare(*json.loads(line))), file=out, flush=True)


def _given(right: bool) -> Compared:
    return Compared(True, "right") if right else Compared(False, "another answer")


def _parsed(text: str, whole: bool = True) -> list[Any]:
    """What math-verify reads in `text`: expressions, at least as a string of the first that it found.

    Args:
        whole: all of `text` is the answer; it may stand without marks of LaTeX around it.
    """
    from math_verify import parse

    marked = f"\\boxed{{{text}}}" if whole else text
    return parse(marked, parsing_timeout=0, raise_on_error=False)


def _same(gold: list[Any], found: list[Any]) -> bool:
    from math_verify import verify

    return bool(verify(gold, found, float_rounding=_DIGITS, numeric_precision=_DIGITS, timeout_seconds=None))
