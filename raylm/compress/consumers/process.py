"""Runs one consumer in a process of its own: a program that crashes or hangs is a verdict on it, not the end of the stage.

request.json -> python -m raylm.compress.consumers.process FOLDER -> answers.json + logprobs.npz
"""

from __future__ import annotations

import contextlib
import json
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from raylm.compress.consumers.consumer import Consumer, Logprobs, Prompt, Ran
from raylm.core.errors import ArtifactError

REQUEST, ANSWERS, LOGPROBS = "request.json", "answers.json", "logprobs.npz"


def run_apart(consumer: Consumer, folder: Path, prompts: list[Prompt], max_tokens: int) -> list[Ran]:
    """What `consumer.run` returns, from another process.

    Raises:
        ArtifactError: it crashed, refused the files, or was not ready before its deadline; in its own last words.
    """
    with tempfile.TemporaryDirectory(prefix="raylm-consumer-") as name:
        at = Path(name)
        card = {"module": type(consumer).__module__, "name": type(consumer).__qualname__, "keys": consumer.model_dump()}
        asked = {"card": card, "folder": str(folder), "prompts": prompts, "max_tokens": max_tokens}
        (at / REQUEST).write_text(json.dumps(asked))
        command = [sys.executable, "-m", "raylm.compress.consumers.process", str(at)]
        with (at / "log").open("wb") as log:
            # a session of its own: what it has started (node) goes with it
            done = subprocess.Popen(
                command, stdout=log, stderr=subprocess.STDOUT, stdin=subprocess.DEVNULL, start_new_session=True
            )
            try:
                done.wait(consumer.deadline_s)
            except subprocess.TimeoutExpired:
                raise ArtifactError(f"no answer within {consumer.deadline_s:.0f} s: {_last_words(at / 'log')}") from None
            finally:
                _end(done)
        if done.returncode < 0:
            raise ArtifactError(f"died of {signal.Signals(-done.returncode).name}: {_last_words(at / 'log')}")
        if done.returncode or not (at / ANSWERS).is_file():
            raise ArtifactError(_last_words(at / "log") or f"ended with {done.returncode}")
        return _read(at)


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a process that leads its session, and all that it left in it."""
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)
    process.wait()


def _last_words(log: Path) -> str:
    lines = [line.strip() for line in log.read_text(errors="replace").splitlines() if line.strip()]
    # the sentence of an error, and what the program itself said before it
    return " | ".join(lines[-3:])[-600:]


def _write(at: Path, answers: list[Ran]) -> None:
    import numpy as np

    arrays: dict[str, Any] = {}
    for number, ran in enumerate(answers):
        if ran.logprobs is not None:
            arrays[f"ids_{number}"], arrays[f"values_{number}"] = ran.logprobs
    np.savez(at / LOGPROBS, **arrays)
    (at / ANSWERS).write_text(json.dumps([ran._replace(logprobs=None) for ran in answers]))


def _read(at: Path) -> list[Ran]:
    import numpy as np

    with np.load(at / LOGPROBS) as arrays:
        answers = [Ran(*fields) for fields in json.loads((at / ANSWERS).read_text())]
        return [
            ran._replace(logprobs=Logprobs(arrays[f"ids_{number}"], arrays[f"values_{number}"]))
            if f"ids_{number}" in arrays
            else ran
            for number, ran in enumerate(answers)
        ]


def main(at: Path) -> None:
    """Answer the request that lies in `at`."""
    from importlib import import_module

    asked = json.loads((at / REQUEST).read_text())
    card = asked["card"]
    consumer: Consumer = getattr(import_module(card["module"]), card["name"])(**card["keys"])
    _write(at, consumer.run(Path(asked["folder"]), asked["prompts"], asked["max_tokens"]))


if __name__ == "__main__":
    main(Path(sys.argv[1]))
