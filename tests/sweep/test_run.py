"""A sweep over a tiny train stage: the best of a grid is found, the worse are stopped, a broken sweep goes on."""

from __future__ import annotations

import json
import tomllib

import pytest

from raylm import job
from raylm.cli import _parser, main
from raylm.core import toml
from raylm.core.artifact import Tokens
from raylm.core.errors import DriftError
from raylm.core.storage import Folder
from raylm.sweep import ranges, report
from raylm.sweep.report import BEST, PICTURE, TABLE, TRIALS
from raylm.sweep.run import Sweep, _same, _told, tried
from tests.rows import counting_rows, make_rows

JOB = """
name = "j"
root = "{root}"
[stages.docs]
stage = "prepare"
source = {{kind = "text", glob = "*.txt"}}
[stages.tokens]
stage = "tokenize"
documents = "docs"
tokenizer = {{kind = "bpe", vocab_size = 300}}
form = {{kind = "text", length = 16}}
[stages.base]
stage = "train"
rows = "tokens"
model = {{hidden_size = 32, num_layers = 1, num_heads = 2, max_length = 32}}
batch = 4
micro_batch = 2
steps = 24
evaluate_every = 4
save_every = 100
workers = {{count = 2}}
optimizer = {{lr = 1e-4, warmup = 0.0}}
"""


@pytest.fixture(scope="module")
def root(tmp_path_factory):
    at = tmp_path_factory.mktemp("sweep")
    make_rows(at / "runs" / "j", "tokens", Tokens, counting_rows(40), length=16, held_out_tokens=64, held_out_bytes=128)
    (at / "job.toml").write_text(JOB.format(root=at / "runs"))
    return at


def swept(root, workers, *over, options=()):
    """All trials of a sweep, the best first, and the sweep."""
    words = ["sweep", str(root / "job.toml"), "base", *(word for each in over for word in ("--over", each)), *options]
    arguments = _parser().parse_args(words)
    data, source = toml.read(arguments.job)
    sweep = Sweep(data, source, "base", ranges.read(arguments.over), arguments.metric, arguments.mode)
    trials, drawn = ranges.num_trials(sweep.over, arguments.trials)
    sweep.folder.make()
    return tried(sweep, workers, trials, drawn, arguments), sweep


@pytest.mark.ray
def test_the_best_is_found_worse_ones_are_stopped_and_a_broken_sweep_goes_on(root, workers, capsys):
    over = "optimizer.lr=1e-2,1e-7,2e-7,1e-8"
    # it is broken off after the second trial
    broken = pytest.MonkeyPatch()
    before = report.add

    def add(folder, trial):
        before(folder, trial)
        if len(report.read(folder)) == 2:
            raise KeyboardInterrupt

    broken.setattr(report, "add", add)
    with pytest.raises(KeyboardInterrupt):
        swept(root, workers, over, options=["--reduction", "2"])
    broken.undo()
    first = report.read(Folder(root / "runs" / "j" / "base.sweep"))
    assert len(first) == 2
    found, sweep = swept(root, workers, over, options=["--reduction", "2"])
    assert sorted(trial.values["optimizer.lr"] for trial in found) == [1e-8, 1e-7, 2e-7, 1e-2]
    # what had ended before is not run again
    assert [trial for trial in found if trial.id in {each.id for each in first}] and "as before: done" in capsys.readouterr().out
    assert {trial.id: trial.seconds for trial in found}.items() >= {trial.id: trial.seconds for trial in first}.items()
    best = found[0]
    assert best.state == "done" and best.values["optimizer.lr"] == 1e-2 and best.steps == 24
    stopped = [trial for trial in found if trial.state == "stopped"]
    assert {trial.values["optimizer.lr"] for trial in stopped} >= {1e-8} and all(trial.steps < 24 for trial in stopped)
    assert not [trial for trial in found if trial.state == "failed"]
    # weights of the best alone are kept
    weights = {path.parent.name for path in (root / "runs" / "j" / "base.sweep").glob("*/model.safetensors")}
    assert weights == {best.id}
    capsys.readouterr()
    assert _told(sweep, found) == 0
    said = capsys.readouterr().out
    assert "the best of 4 trials of base: held_out_loss" in said and f"next: raylm run {sweep.folder.path(BEST)}" in said
    made = job.load(sweep.folder.path(BEST))
    assert made.stages["base"].optimizer.lr == best.values["optimizer.lr"] and made.stages["base"].steps == 24
    assert sweep.folder.size(PICTURE) > 10_000
    assert sweep.folder.read(TABLE).decode().splitlines()[1].startswith(f"{best.id},")


@pytest.mark.ray
def test_a_trial_that_fails_is_counted_and_the_others_go_on(root, workers):
    table = root / "runs" / "j" / "base.sweep"
    Folder(table).remove()
    # more rows per step than the model takes positions is refused by the ranks, not by the config
    found, _ = swept(root, workers, "model.max_length=8,32", "steps=2", options=["--all"])
    assert [trial.state for trial in found] == ["done", "failed"]
    assert found[1].values["model.max_length"] == 8 and "the model takes 8" in found[1].error
    assert len((table / TRIALS).read_text().splitlines()) == 2
    assert all(json.loads(line)["steps"] <= 2 for line in (table / TRIALS).read_text().splitlines())


def test_what_cannot_be_swept_is_refused_before_anything_starts(root, capsys):
    for words, said in (
        (["tokens", "--over", "batch=1,2"], "'tokens' is no train stage"),
        (["base", "--over", "bach=1,2"], "base.bach"),
        (["base", "--over", "optimizer.lr=1e-3,-1"], "optimizer.lr"),
        (["base"], "nothing is swept over"),
    ):
        assert main(["sweep", str(root / "job.toml"), *words]) == 1
        assert said in capsys.readouterr().err
    folder = Folder(root / "runs" / "j" / "base.sweep")
    folder.make().write_json("sweep.json", {"over": ["batch=1,2"]})
    assert main(["sweep", str(root / "job.toml"), "base", "--over", "batch=2,4"]) == 1
    assert "another sweep lies here" in (told := capsys.readouterr().err) and "--anew" in told
    folder.remove()


def test_trials_on_other_rows_are_not_compared(tmp_path):
    """The stage's own keys are the same, what it reads was made anew."""
    (tmp_path / "job.toml").write_text(JOB.format(root=tmp_path / "runs"))
    data, source = toml.read(str(tmp_path / "job.toml"))
    sweep = Sweep(data, source, "base", ranges.read(["batch=2,4"]), "held_out_loss", "min")
    for rows in (10, 11):
        make_rows(tmp_path / "runs" / "j", "tokens", Tokens, counting_rows(rows), length=16)
        asked = {"inputs": sweep.inputs()}
        if rows == 10:
            _same(sweep.folder, {"over": ["batch=2,4"]}, anew=False)
            _same(sweep.folder, asked, anew=False)
            _same(sweep.folder, asked, anew=False)
    with pytest.raises(DriftError, match=r"it differs in inputs(.|\n)*--anew"):
        _same(sweep.folder, asked, anew=False)


def test_values_are_written_as_toml_reads_them():
    value = {"a": [1, 2.5, True], "b c": 'x"\n', "d": {"e": "ü"}}
    assert tomllib.loads(f"v = {toml.value_text(value)}")["v"] == value
