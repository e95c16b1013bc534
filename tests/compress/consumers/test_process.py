"""A consumer in a process of its own: what it says comes back whole, and its death is told in its last words."""

from __future__ import annotations

import os
import subprocess
import sys
import time
from pathlib import Path
from typing import ClassVar, Literal

import numpy as np
import pytest

from raylm.compress.consumers.consumer import Consumer, Ran, top
from raylm.compress.consumers.process import run_apart
from raylm.core.errors import ArtifactError


class Echo(Consumer):
    reads: ClassVar[tuple[str, ...]] = ("gguf",)
    deadline_s: ClassVar[float] = 20.0

    kind: Literal["echo"] = "echo"
    does: str = "answers"

    def installed(self) -> str:
        return ""

    def version(self) -> str:
        return "1"

    def run(self, folder: Path, prompts, max_tokens: int) -> list[Ran]:
        if self.does == "leaves":
            helper = subprocess.Popen(["sleep", "60"])
            (folder / "helper").write_text(str(helper.pid))
            os.abort()
        if self.does == "crashes":
            print("out of bounds", flush=True)
            os.abort()
        if self.does == "refuses":
            sys.exit("unknown architecture")
        if self.does == "hangs":
            time.sleep(60)
        logits = np.arange(6.0).reshape(2, 3)
        return [
            Ran([n], 1, None if n else [max_tokens], str(prompt), None if n else top(logits, 3))
            for n, prompt in enumerate(prompts)
        ]


class Impatient(Echo):
    deadline_s: ClassVar[float] = 3.0


def test_answers_come_back_whole(tmp_path):
    talk = [{"role": "user", "content": "b"}]
    one, other = run_apart(Echo(), tmp_path, ["a", talk], 7)
    assert (one.prompt_ids, one.tokens, one.text) == ([0], [7], "a")
    assert one.logprobs is not None and one.logprobs.ids.tolist() == [[2, 1, 0], [2, 1, 0]]
    assert other == Ran([1], 1, None, str(talk), None)


@pytest.mark.parametrize(
    ("card", "words"),
    [
        (Echo(does="crashes"), "died of SIGABRT: .*out of bounds"),
        (Echo(does="refuses"), "unknown architecture"),
        (Impatient(does="hangs"), "no answer within 3 s"),
    ],
)
def test_its_end_is_told_in_words(tmp_path, card, words):
    with pytest.raises(ArtifactError, match=words):
        run_apart(card, tmp_path, ["a"], 1)


def test_what_it_has_started_ends_with_it(tmp_path):
    with pytest.raises(ArtifactError, match="died of SIGABRT"):
        run_apart(Echo(does="leaves"), tmp_path, ["a"], 1)
    status = Path(f"/proc/{(tmp_path / 'helper').read_text()}/stat")

    def runs() -> bool:
        # whoever adopted it may not have asked yet how it ended
        return status.exists() and status.read_text().rpartition(")")[2].split()[0] != "Z"

    for _ in range(100):
        if not runs():
            break
        time.sleep(0.05)
    assert not runs()
