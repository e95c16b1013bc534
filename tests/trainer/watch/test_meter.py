"""The meter: costs of each step, and losses by part that add up to the whole."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import pytest
import torch

from raylm.data.schedule import Mixed, Schedule
from raylm.parallel.strategies.ddp import Ddp
from raylm.trainer.watch.meter import Domains, Meter
from tests.parallel.loops import fixed_rows, make_loop
from tests.parallel.on_ranks import on_ranks


def test_a_row_tells_what_the_step_cost(tmp_path):
    loop, seen = make_loop(Ddp(), tmp_path, steps=2)
    loop.run()
    for row in seen:
        assert row["tokens_per_s"] >= row["trainable_tokens_per_s"] > 0
        assert 0 < row["data_wait_s"] < row["step_s"] and row["memory_gb"] > 0.05
        assert not {"mfu", "straggler", "communication_s"} & row.keys()


def slowed(rank: int, world: int, work: str) -> list[list[dict]]:
    """Rows of a run in which rank 1 reads slowly, and of a pipeline, whose first stage never sees a loss."""
    found = []
    for mesh in ({}, {"pipeline": 2}):
        loop, seen = make_loop(Ddp(), Path(work) / str(len(found)), steps=2, mesh=mesh)
        at, began = loop.batches.at, [float("inf")]

        def slowly(step, at=at, began=began, slow=rank == 1 and not mesh):
            # twice as long as the step before took, however busy the machine is
            time.sleep(slow * max(0.5, 2 * (time.monotonic() - began[0])))
            began[0] = time.monotonic()
            return at(step)

        loop.batches.at = slowly
        loop.run()
        found.append(seen)
    return found


def test_the_slowest_rank_is_named_and_a_pipeline_has_no_false_straggler(tmp_path):
    data, pipeline = on_ranks(2, slowed, str(tmp_path))[0]
    assert data[1]["slowest_rank"] == 1 and data[1]["straggler"] > 2 and data[1]["data_wait_s"] > 0.4
    assert data[1]["tokens_per_s"] * data[1]["step_s"] == pytest.approx(sum_of_tokens(data[1]))
    assert [row["straggler"] for row in pipeline] == [1.0, 1.0] and pipeline[1]["slowest_rank"] == 1


class Two:
    """One of two ranks that do the same."""

    world, rank, device = 2, 1, torch.device("cpu")

    def most(self, values):
        return values


def test_a_step_in_which_no_rank_saw_a_forward_pass_has_no_straggler():
    """A critic that learns alone: the policy is not asked."""
    engine: Any = Two()
    for seen in (False, True):
        meter = Meter(engine)
        meter.start()
        meter.read()
        meter.meet()
        if seen:
            time.sleep(0.01)
            meter.forward()
        assert ("straggler" in meter.values(1.0, 1.0, "tokens")) == seen


def exchanging(rank: int, world: int, work: str) -> list[dict]:
    """Rows of a run whose ranks need 0.2 s for each sum."""
    loop, seen = make_loop(Ddp(), Path(work), steps=2)
    inner = loop.engine.sum

    def slowly(values):
        time.sleep(0.2)
        return inner(values)

    loop.engine.sum = slowly
    loop.run()
    return seen


def test_what_all_ranks_wait_is_exchange_and_what_one_costs_the_others_is_not(tmp_path):
    row = on_ranks(2, exchanging, str(tmp_path / "all"))[0][1]
    assert 0.5 < row["communication_s"] < row["step_s"], "three sums: of the tokens, the weights, the metrics"
    late = on_ranks(2, slowed, str(tmp_path / "one"))[0][0][1]
    assert late["communication_s"] < 0.8 * late["data_wait_s"] and late["data_wait_s"] > 0.4


def sum_of_tokens(row: dict) -> int:
    """Tokens of the real rows of that step: 5 rows on 2 ranks are filled up to 6, and the sixth is no work done."""
    from raylm.data.order import batch_indices

    rows = fixed_rows()
    return sum(len(rows[index]["tokens"]) for index in batch_indices(len(rows), 5, row["step"], 0))


def test_utilisation_is_flops_over_peak(tmp_path):
    loop, seen = make_loop(Ddp(), tmp_path, steps=1)
    loop.meter._flops, loop.meter._peak = 2e6, 1e9
    loop.run()
    assert seen[0]["mfu"] == pytest.approx(2e6 * seen[0]["tokens_per_s"] / 1e9)


def test_losses_of_parts_add_up_to_the_whole(tmp_path):
    loop, seen = make_loop(Ddp(), tmp_path, steps=4)
    mixed = Mixed([fixed_rows()[:10], fixed_rows()[10:]], Schedule([(None, (1, 1))]))
    loop.batches._rows, domains = mixed, Domains(["web", "code"], mixed)
    loop.losses._domains = domains
    weights = []
    means = domains.means

    def both(sums):
        weights.append((sums["weight/web"], sums["weight/code"]))
        return means(sums)

    domains.means = both
    for step in range(4):
        row = loop.step(step)
        web, code = weights[-1]
        assert web > 0 and code > 0
        assert row["loss"] == pytest.approx((row["loss/web"] * web + row["loss/code"] * code) / (web + code), rel=1e-5)
        assert "weight/web" not in row
    assert seen == []


def test_parts_of_one_artifact_are_told_apart():
    domains = Domains(["web", "code", "web"], None)
    sums = {
        f"{what}/{name}": value for name, value in (("web#1", 2.0), ("code", 4.0), ("web#3", 9.0)) for what in ("loss", "weight")
    }
    sums |= {"weight/web#1": 1.0, "weight/code": 1.0, "weight/web#3": 3.0}
    assert domains.means(sums) == {"loss/web#1": 2.0, "loss/code": 4.0, "loss/web#3": 3.0}
