"""Prune + distil in one job (as jobs/prune.toml): killed while layers are chosen, and while the student learns."""

from __future__ import annotations

import json
import shutil
import subprocess
from pathlib import Path

import pytest

from raylm.core.artifact import open_artifact
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from tests.flow.test_finetune import kill_when
from tests.flow.test_road import command
from tests.stages import payload

JOB = """
name = "job"
root = "{root}"

[stages.questions]
stage = "prepare"
source = {{kind = "python_questions", num_rows = 300}}

[stages.dialogues]
stage = "tokenize"
documents = "questions"
tokenizer = {{kind = "bpe", vocab_size = 384}}
form = {{kind = "dialogues", length = 128}}
held_out = 0.1

[stages.parent]
stage = "train"
rows = "dialogues"
model = {{kind = "llama", hidden_size = 64, num_layers = 4, num_heads = 2, intermediate_size = 128, max_length = 256}}
optimizer = {{lr = 3e-3}}
batch = 8
steps = 10
held_out_rows = 0

[stages.smaller]
stage = "compress"
model = "parent"
method = {{kind = "depth", num_layers = 2, importance = "loss"}}
calibration = "dialogues"
calibration_rows = 200

[stages.student]
stage = "train"
rows = "dialogues"
model = "smaller"
objective = {{kind = "distill", teacher = "parent"}}
optimizer = {{lr = 1e-3}}
batch = 8
steps = 24
save_every = 4
held_out_rows = 0
"""
BEFORE = ("questions", "dialogues", "parent")
"""Stages that are killed elsewhere (test_road.py, test_finetune.py): both runs begin behind them."""


def job_in(folder: Path) -> Path:
    folder.mkdir()
    (folder / "job.toml").write_text(JOB.format(root=folder))
    return folder / "job.toml"


@pytest.mark.ray
@pytest.mark.long
@pytest.mark.timeout(1200)
def test_a_killed_run_ends_as_the_undisturbed_one(tmp_path):
    calm, rough = job_in(tmp_path / "calm"), job_in(tmp_path / "rough")
    done = subprocess.run(command(calm, "run"), capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    of = rough.parent / "job"
    for stage in BEFORE:
        shutil.copytree(calm.parent / "job" / stage, of / stage)
    kill_when(rough, lambda: (of / "smaller").exists())
    assert not (of / "smaller" / "manifest.json").exists(), "it was pruned already"
    kill_when(rough, lambda: len(read_metrics(Folder(of / "student"))) >= 10)
    end = subprocess.run(command(rough, "run"), capture_output=True, text=True, check=False)
    assert end.returncode == 0, end.stdout + end.stderr
    assert all(f"{stage}: ready" in end.stdout for stage in (*BEFORE, "smaller"))
    for stage in ("smaller", "student"):
        weights = [payload(open_artifact(Folder(root / "job" / stage))) for root in (calm.parent, rough.parent)]
        names = [name for name in weights[0] if name.endswith(".safetensors") and "step" not in name]
        assert names and all(weights[0][name] == weights[1][name] for name in names)
    curves = [
        [(row["step"], row["loss"], row["grad_norm"]) for row in read_metrics(Folder(root / "job" / "student"))]
        for root in (calm.parent, rough.parent)
    ]
    assert curves[0] == curves[1] and len(curves[0]) == 24 and curves[0][-1][1] < curves[0][0][1]
    assert json.loads((of / "student" / "config.json").read_text())["num_hidden_layers"] == 2
