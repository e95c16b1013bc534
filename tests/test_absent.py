"""What a job names and is not here: said by plan, refused by run before anything starts."""

from __future__ import annotations

import pytest

from raylm.cli import main

JOB = """
name = "mine"
root = "{at}/runs"

[stages.chats]
stage = "prepare"
source = {{kind = "jsonl", glob = "{at}/data/*.jsonl"}}

[stages.dialogues]
stage = "tokenize"
documents = "chats"
tokenizer = "models/none"
form = {{kind = "dialogues"}}

[stages.tuned]
stage = "train"
rows = "dialogues"
model = "models/none"
batch = 4
steps = 2

[stages.other]
stage = "train"
rows = "dialogues"
model = "models/none"
batch = 4
steps = 2
"""


@pytest.fixture
def path(tmp_path):
    (tmp_path / "mine.toml").write_text(JOB.format(at=tmp_path))
    return str(tmp_path / "mine.toml")


def test_plan_says_what_is_not_here_and_run_refuses_missing_files(path, tmp_path, capsys):
    assert main(["plan", path]) == 0
    # a line is broken where the terminal ends, in a long path too
    out = "".join(capsys.readouterr().out.split())

    def says(text: str) -> bool:
        return "".join(text.split()) in out

    assert says(f"chats: no file matches {tmp_path}/data/*.jsonl")
    assert says("tuned: models/none is no folder here and taken for a hub's name")
    assert says("no memory, speed or cost is known before its config is here: hf download models/none config.json")
    assert main(["run", path, "--only", "tuned"]) == 1
    assert "stages.chats: no file matches" in capsys.readouterr().err
    assert not (tmp_path / "runs").exists()
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "a.jsonl").write_text("{}\n")
    assert main(["plan", path]) == 0
    assert "no file matches" not in capsys.readouterr().out


def test_plan_of_one_stage_leaves_out_what_it_does_not_need(path, capsys):
    assert main(["plan", path, "--only", "tuned"]) == 0
    out = capsys.readouterr().out
    assert "3 stages" in out and "other" not in out
    assert f"next: raylm run {path} --only tuned" in out.replace("\n", "")
    assert main(["plan", path, "--only", "tunde"]) == 1
    assert "did you mean 'tuned'" in capsys.readouterr().err.lower()
