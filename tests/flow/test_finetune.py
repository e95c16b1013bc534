"""Preference alignment beside a 4-bit base with stored references: killed while rows are scored, and in training."""

from __future__ import annotations

import signal
import subprocess
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from raylm.core.artifact import open_artifact
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.trainer.stored_scores import DONE, SCORES
from tests.flow.test_road import command
from tests.stages import payload

JOB = """
name = "job"
root = "{root}"

[stages.questions]
stage = "prepare"
source = {{kind = "python_questions", num_rows = 3000}}

[stages.dialogues]
stage = "tokenize"
documents = "questions"
tokenizer = {{kind = "bpe", vocab_size = 512}}
form = {{kind = "dialogues", length = 128}}

[stages.pairs]
stage = "tokenize"
documents = "questions"
tokenizer = "dialogues"
form = {{kind = "pairs", length = 128}}

[stages.sft]
stage = "train"
rows = "dialogues"
model = {{kind = "llama", hidden_size = 64, num_layers = 2, num_heads = 2, intermediate_size = 128, max_length = 256}}
optimizer = {{lr = 3e-3}}
batch = 16
steps = 20
held_out_rows = 0

[stages.aligned]
stage = "train"
rows = "pairs"
model = "sft"
objective = {{kind = "dpo"}}
reference = "stored"
adapter = {{kind = "qlora", rank = 4}}
optimizer = {{lr = 1e-3}}
batch = 16
micro_batch = 8
steps = 60
save_every = 10
held_out_rows = 0
"""


def job_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "job.toml").write_text(JOB.format(root=folder))
    return folder / "job.toml"


def kill_when(job: Path, reached: Callable[[], bool]) -> None:
    """Run the job and kill its driver as soon as `reached`."""
    driver = subprocess.Popen(command(job, "run"), stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    until = time.monotonic() + 300
    while not reached():
        assert driver.poll() is None, f"ended early:\n{driver.communicate()[0]}"
        assert time.monotonic() < until
        time.sleep(0.01)
    driver.send_signal(signal.SIGKILL)
    driver.communicate(timeout=60)


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_killed_run_ends_as_the_undisturbed_one(tmp_path):
    calm, rough = job_in(tmp_path / "calm"), job_in(tmp_path / "rough")
    done = subprocess.run(command(calm, "run"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    of = rough.parent / "job"

    def scoring() -> bool:
        return any((of / SCORES).glob("*/*train-*.arrow")) and not any((of / SCORES).glob(f"*/{DONE}"))

    kill_when(rough, scoring)
    assert not any((of / SCORES).glob(f"*/{DONE}")), "it had scored all rows"
    kill_when(rough, lambda: len(read_metrics(Folder(of / "aligned"))) >= 25)
    end = subprocess.run(command(rough, "run"), capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout + end.stderr
    curves = [
        [(row["step"], row["loss"], row["grad_norm"]) for row in read_metrics(Folder(root / "job" / "aligned"))]
        for root in (calm.parent, rough.parent)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 60
    weights = [payload(open_artifact(Folder(root / "job" / "aligned"))) for root in (calm.parent, rough.parent)]
    names = [name for name in weights[0] if name.endswith(".safetensors")]
    assert len(names) == 2 and all(weights[0][name] == weights[1][name] for name in names)
