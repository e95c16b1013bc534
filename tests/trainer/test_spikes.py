"""Spikes: planted NaN and garbage rows are skipped, rolled back and passed over, or end the run; restarts keep count."""

from __future__ import annotations

import dataclasses
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.batches import Batches
from raylm.trainer.spikes import DECISIONS, SpikeHandler, Spikes
from tests.parallel.loops import SHAPE, make_loop
from tests.parallel.on_ranks import PRELOAD, on_ranks

STEPS = 24
SPIKES = {"window": 16, "warmup": 8, "patience": 2, "rollbacks": 1, "loss_z": 3.0, "norm_z": 1e9}


def loop_over(
    work: Path, bad: set[int], nan: bool = False, strategy: Any = None, **table: Any
) -> tuple[Any, list[dict[str, Any]]]:
    """A loop over counting rows, which are soon learned; the batches at the positions `bad` are garbage, or meet a NaN."""
    table = {
        "spikes": Spikes(**SPIKES),
        "steps": STEPS,
        "save_every": 8,
        "lr": 0.03,
        "model": {**SHAPE, "tie_embeddings": False, "num_kv_heads": 2},
        "held_out_rows": 4,
        **table,
    }
    loop, seen = make_loop(strategy or Ddp(), work, kind="Tokens", **table)
    rows = [{"tokens": np.arange(3, 13), "starts": [0]} for _ in range(300)]
    old, grid = loop.batches, loop.engine.grid
    draw = np.random.default_rng(3)
    for row in {row for position in bad for row in old.__class__.indices(_over(rows, grid), position)}:
        tokens = rows[row]["tokens"].copy()
        tokens[4] = 60
        rows[row] = {"tokens": tokens if nan else draw.integers(3, 60, 10), "starts": [0]}
    if nan:
        with torch.no_grad():
            loop.engine.bare.model.embed_tokens.weight[60] = float("nan")
    batches = _over(rows, grid)
    setup = loop.setup.model_copy(update={"num_rows": [len(rows)]})
    said: list[str] = []
    loop = dataclasses.replace(loop, batches=batches, setup=setup, held_out=None, say=said.append)
    loop.said = said
    return loop, seen


def _over(rows: list[Any], grid: Any) -> Batches:
    return Batches(rows, "Tokens", batch=5, micro=2, seed=0, pad_id=0, rank=grid.data_rank, world=grid.data_world)


def what(loop: Any) -> list[tuple[str, int, int]]:
    return [(each["what"], each["step"], each["position"]) for each in loop.course.decisions]


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows]


def test_off_by_default_and_silent_where_nothing_happens(tmp_path):
    plain, seen = loop_over(tmp_path / "plain", set(), spikes=None)
    watched, also = loop_over(tmp_path / "watched", set())
    assert plain.run()["skipped_steps"] == watched.run()["skipped_steps"] == 0
    assert losses(seen) == losses(also)
    assert watched.course.decisions == [] and not (tmp_path / "watched" / DECISIONS).exists()
    assert [row["event"] for row in also if "event" in row] == []


def test_z_by_hand():
    """Median 2, deviations 1 1 0 1 2 -> median 1: 10 stands (10 - 2) / 1.4826 = 5.396 above."""
    course = SpikeHandler(Spikes(window=8, warmup=5, loss_z=5.3, norm_z=5.5), Folder("/nowhere"), rank=1)
    for value in (1.0, 3.0, 2.0, 1.0, 4.0):
        assert course.takes(value, value)
    assert not course.takes(10.0, 2.0)
    assert course.decide(5, 0, [], [])["loss_z"] == pytest.approx(8 / 1.4826)
    assert course.takes(-10.0, 2.0), "a loss far below is no spike"


def test_positions_after_skips_and_rollbacks():
    course = SpikeHandler(Spikes(warmup=4, patience=2), Folder("/nowhere"), rank=1)
    assert (course.takes(float("nan"), 1.0), course.decide(6, 4, [], [])["what"]) == (False, "skip")
    assert [course.position(step) for step in (5, 6, 7)] == [5, 7, 8]
    assert course.decide(6, 4, [], [])["what"] == "skip"
    assert course.decide(7, 4, [], [])["what"] == "rollback"  # position 9, back to step 4: the next one is 10
    assert [course.position(step) for step in (3, 4, 5)] == [3, 10, 11]
    assert course.passed() == [4, 5, 6, 7, 8, 9]


def test_a_run_that_goes_on_without_spikes_keeps_its_place_in_the_data(tmp_path):
    course = SpikeHandler(Spikes(warmup=4), Folder(tmp_path), rank=0)
    assert not course.takes(float("nan"), 1.0)
    course.decide(6, 4, [], [])
    without = SpikeHandler(None, Folder(tmp_path), rank=0)
    without.restore(None, None)
    assert [without.position(step) for step in (5, 6)] == [5, 7] and without.passed() == [6]


def test_a_nan_row_is_skipped_and_named(tmp_path):
    loop, seen = loop_over(tmp_path, {18}, nan=True)
    metrics = loop.run()
    assert what(loop) == [("skip", 18, 18)] and metrics["skipped_steps"] == 1
    assert loop.course.decisions[0]["rows"] == sorted(loop.batches.indices(18))
    assert "rows row" in loop.course.decisions[0]["documents"][0]
    assert len(seen) == STEPS and all(np.isfinite(losses(seen))) and "batch 18 is skipped" in seen[18]["event"]
    finite = {name: bool(tensor[:60].isfinite().all()) for name, tensor in loop.engine.weights().items()}
    assert all(finite.values()), finite


def test_skipping_advances_neither_schedule_nor_optimizer(tmp_path):
    """The run that skips batch 18 is, step by step, the run that never had it."""
    loop, seen = loop_over(tmp_path / "bad", {18})
    loop.run()
    assert what(loop) == [("skip", 18, 18)]
    clean, unspoilt = loop_over(tmp_path / "clean", {18}, spikes=None)
    clean.course.position = lambda step: step + (step >= 18)
    clean.course.passed = lambda: [18]
    clean.run()
    assert losses(seen) == losses(unspoilt)
    assert [row["lr"] for row in seen] == [row["lr"] for row in unspoilt]


def test_skips_that_do_not_help_lead_to_a_rollback_and_then_to_a_stop(tmp_path):
    loop, seen = loop_over(tmp_path / "rollback", {18, 19, 20})
    loop.run()
    assert what(loop) == [("skip", 18, 18), ("skip", 18, 19), ("rollback", 18, 20)]
    # back to the checkpoint of step 16, whose batches 16 to 20 are passed over
    assert loop.course.passed() == [16, 17, 18, 19, 20] and loop.course.position(16) == 21
    assert [row["step"] for row in seen] == list(range(STEPS)) and max(losses(seen[16:])) < 1
    assert "back to step 16" in seen[16]["event"]
    stopped, _ = loop_over(tmp_path / "stop", {18, 19, 20, 22, 23, 24})
    with pytest.raises(TrainingError, match="training stops") as caught:
        stopped.run()
    assert [each[0] for each in what(stopped)] == ["skip", "skip", "rollback", "skip", "skip", "stop"]
    assert str(sorted(stopped.batches.indices(24))) in caught.value.where


def test_action_stop_and_action_skip(tmp_path):
    at_once, _ = loop_over(tmp_path / "stop", {18}, spikes=Spikes(**SPIKES, action="stop"))
    with pytest.raises(TrainingError, match="spike at step 18"):
        at_once.run()
    never_back, _ = loop_over(tmp_path / "skip", {18, 19, 20}, spikes=Spikes(**SPIKES, action="skip"))
    with pytest.raises(TrainingError):
        never_back.run()
    assert [each[0] for each in what(never_back)] == ["skip", "skip", "stop"]


def _killed(work: Path, at: str) -> None:
    loop, _ = loop_over(work, {18, 19, 20})
    loop.say = lambda line: os.kill(os.getpid(), signal.SIGKILL) if at in line else None
    loop.run()


@pytest.mark.parametrize("at", ["batch 19 is skipped", "back to step 16"])
def test_a_kill_right_after_a_decision_does_not_forget_it(tmp_path, at):
    whole, seen = loop_over(tmp_path / "whole", {18, 19, 20})
    whole.run()
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(PRELOAD)
    killed = context.Process(target=_killed, args=(tmp_path / "killed", at))
    killed.start()
    killed.join(60)
    assert killed.exitcode == -signal.SIGKILL
    again, rows = loop_over(tmp_path / "killed", {18, 19, 20})
    again.run()
    assert what(again) == what(whole)
    assert losses(rows) == losses(seen)


def _on_a_rank(rank: int, world: int, work: str, table: dict[str, Any]) -> dict[str, Any]:
    loop, seen = loop_over(Path(work), {18, 19, 20}, **table)
    loop.run()
    return {"what": what(loop), "losses": losses(seen), "state": loop.course.state()["losses"]}


@pytest.mark.parametrize("table", [{"strategy": Fsdp()}, {"strategy": Fsdp(), "mesh": {"tensor": 2}}], ids=["data", "tensor"])
def test_two_ranks_decide_alike_and_as_one_does(tmp_path, table):
    alone, seen = loop_over(tmp_path / "alone", {18, 19, 20})
    alone.run()
    found = on_ranks(2, _on_a_rank, str(tmp_path / "two"), table)
    for one in found:
        assert one["what"] == what(alone)
        assert one["losses"] == pytest.approx(losses(seen), abs=1e-2)
    assert found[0]["state"] == found[1]["state"]
