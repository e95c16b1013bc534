"""`raylm tune-serve`: tries engine settings on the user's own prompts on this machine, and leaves a table and the best of them.

prompts --> plain engine --> each candidate, an engine in a process of its own --> those that helped together --> report, TOML
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.errors import ConfigError, StageError
from raylm.inference.config import MEMORY_SHARE
from raylm.inference.engine_dtype import engine_dtype, network_of
from raylm.serve.tune.candidates import COMBINED, PLAIN, Candidate, candidates, combined
from raylm.serve.tune.prompts import encoded, read_audit, read_prompts
from raylm.serve.tune.report import Row, row_of, write_report

LEAST_S = 30.0
"""Seconds that must be left for a candidate to be begun."""


class Tuning(NamedTuple):
    """What all candidates are asked; `found` is where their results lie."""

    model: str
    prompts: list[list[int]]
    ends: list[int]
    dtype: str
    max_len: int
    gpus: int
    tokens: int
    concurrency: int
    repeats: int
    found: Path

    def asked(self, candidate: Candidate) -> dict[str, Any]:
        """What the process of a candidate reads."""
        kept = {name: value for name, value in self._asdict().items() if name != "found"}
        model = candidate.model or self.model
        return kept | {"model": model, "engine": candidate.table, "memory_share": MEMORY_SHARE}


def run(arguments: argparse.Namespace) -> int:
    """The command."""
    tuning = _tuning(arguments)
    also = dict(_named(word) for word in arguments.also)
    tried = candidates(arguments.gpus, arguments.draft or "", also, arguments.compile)
    length = median(map(len, tuning.prompts))
    print(
        f"{len(tuning.prompts)} prompts of {length:.0f} tokens (median), {tuning.tokens} of each answer, "
        f"{tuning.concurrency} at once, {tuning.repeats} passes; {len(tried)} candidates in {arguments.minutes:g} minutes",
        flush=True,
    )
    rows = try_all(tuning, tried, 60 * arguments.minutes, arguments.anew)
    at = write_report(tuning.found.parent, arguments.model, rows, _said(tuning))
    print(f"report: {at}\nnext: paste the table `engine` into the serve stage, then raylm run JOB")
    return 0


def try_all(tuning: Tuning, tried: list[Candidate], seconds: float, anew: bool, by: Any = None) -> list[Row]:
    """A row for each candidate, and for the combination of those that helped. What is there of an earlier run is not measured
    again.

    Args:
        by: measures one candidate; `measure`.

    Raises:
        StageError: the plain engine could not be measured: there is nothing to compare with.
    """
    until, rows, plain = time.monotonic() + seconds, [], None
    queue = list(tried)
    while queue:
        candidate = queue.pop(0)
        result = _known(tuning, candidate) if not anew else None
        left = until - time.monotonic()
        if result is None and candidate.name != PLAIN and left < LEAST_S:
            rows.append(
                row_of(candidate, {"failed": "not tried: the time was up; --minutes, and the same command goes on"}, None)
            )
            continue
        result = result or (by or measure)(tuning, candidate, max(left, LEAST_S))
        plain = result if candidate.name == PLAIN else plain
        rows.append(row_of(candidate, result, plain))
        print(f"  {rows[-1].said}", flush=True)
        if plain is None or "failed" in plain:
            raise StageError(
                f"the engine without any settings could not be measured: {(plain or result)['failed']}",
                where=tuning.model,
                next=f"its log lies in {tuning.found}",
            )
        if not queue and candidate.name != COMBINED:
            helped = [(one.candidate, one.ratio) for one in rows if one.helped]
            queue += [more] if (more := combined(helped)) else []
    return rows


def measure(tuning: Tuning, candidate: Candidate, seconds: float) -> dict[str, Any]:
    """One candidate in a process of its own, with at most so many seconds; its result is on file before this returns."""
    folder = tuning.found
    folder.mkdir(parents=True, exist_ok=True)
    asked = tuning.asked(candidate)
    files = {kind: folder / f"{candidate.name}.{kind}" for kind in ("asked", "json", "log")}
    files["asked"].write_text(json.dumps(asked))
    files["json"].unlink(missing_ok=True)
    command = [sys.executable, "-m", "raylm.serve.tune.measure", str(files["asked"]), str(files["json"])]
    with files["log"].open("w") as log:
        # a session of its own: an engine's own processes end with it
        process = subprocess.Popen(command, stdout=log, stderr=log, start_new_session=True)
        try:
            process.wait(seconds)
        except subprocess.TimeoutExpired:
            result: dict[str, Any] = {"failed": f"not done after {seconds:.0f} s", "late": True}
        else:
            result = json.loads(files["json"].read_text()) if files["json"].is_file() else {"failed": _last_words(files["log"])}
        finally:
            # also where it has ended itself: an engine in a process of its own would keep the GPU's memory
            with suppress(ProcessLookupError):
                os.killpg(process.pid, signal.SIGKILL)
            process.wait()
    files["json"].write_text(json.dumps({"of": digest_of(asked), **result}))
    return result


def _known(tuning: Tuning, candidate: Candidate) -> dict[str, Any] | None:
    """The result of an earlier run that asked the same; one that ran out of time is none."""
    file = tuning.found / f"{candidate.name}.json"
    try:
        found = json.loads(file.read_text())
    except (OSError, ValueError):
        return None
    same = found.get("of") == digest_of(tuning.asked(candidate)) and not found.get("late")
    return {key: value for key, value in found.items() if key != "of"} if same else None


def _tuning(arguments: argparse.Namespace) -> Tuning:
    from raylm.model.checkpoint import end_tokens
    from raylm.model.limits import config_of, positions
    from raylm.model.load import load_tokenizer, on_this_machine

    model = on_this_machine(arguments.model)
    if not Path(model).is_dir():
        raise ConfigError(
            "there is no such folder", where=model, next="name the folder of a checkpoint; a hub name is fetched first"
        )
    if min(arguments.tokens, arguments.concurrency, arguments.repeats) < 1:
        raise ConfigError("--tokens, --concurrency and --repeats are 1 or more")
    tokenizer = load_tokenizer(model)
    most = arguments.max_len or positions(config_of(model)) or 8192
    asked = read_audit(arguments.from_audit) if arguments.from_audit else read_prompts(arguments.prompts)
    prompts = encoded(asked, tokenizer, most - arguments.tokens)
    max_len = arguments.max_len or min(most, max(map(len, prompts)) + arguments.tokens)
    return Tuning(
        model,
        prompts,
        end_tokens(Path(model), tokenizer),
        engine_dtype(network_of(model), arguments.dtype, arguments.gpus > 0, where=model).name,
        max_len,
        arguments.gpus,
        arguments.tokens,
        arguments.concurrency,
        arguments.repeats,
        Path(arguments.out).expanduser() / "candidates",
    )


def _named(word: str) -> tuple[str, str]:
    name, _, model = word.partition("=")
    if not model or "/" in name or name in (PLAIN, COMBINED):
        raise ConfigError(f"--also {word}: write NAME=FOLDER")
    return name, str(Path(model).expanduser())


def _said(tuning: Tuning) -> dict[str, Any]:
    return {
        "prompts": len(tuning.prompts),
        "prompt_tokens": sum(map(len, tuning.prompts)),
        "tokens_of_an_answer": tuning.tokens,
        "concurrency": tuning.concurrency,
        "passes": tuning.repeats,
        "dtype": tuning.dtype,
        "max_len": tuning.max_len,
        "gpus": tuning.gpus,
        "cores": len(os.sched_getaffinity(0)),
    }


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    return f"its process ended: {lines[-1][:300]}" if lines else "its process ended without a word"
