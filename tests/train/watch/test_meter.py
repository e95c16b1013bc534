"""Takes a loop over a mixture, proves what each row tells: costs, and losses by part that add up to the whole."""

from __future__ import annotations

import pytest

from raylm.data.schedule import Mixed, Schedule
from raylm.parallel.strategies.ddp import Ddp
from raylm.train.watch.meter import Domains
from tests.parallel.loops import fixed_rows, make_loop


def test_a_row_tells_what_the_step_cost(tmp_path):
    loop, seen = make_loop(Ddp(), tmp_path, steps=2)
    loop.run()
    for row in seen:
        assert row["tokens_per_s"] >= row["trainable_tokens_per_s"] > 0
        assert 0 < row["data_wait_s"] < row["step_s"] and row["memory_gb"] > 0.05
        assert "mfu" not in row and "straggler" not in row


def test_utilisation_is_flops_over_peak(tmp_path):
    loop, seen = make_loop(Ddp(), tmp_path, steps=1)
    loop.meter._flops, loop.meter._peak = 2e6, 1e9
    loop.run()
    assert seen[0]["mfu"] == pytest.approx(2e6 * seen[0]["tokens_per_s"] / 1e9)


def test_losses_of_parts_add_up_to_the_whole(tmp_path):
    loop, seen = make_loop(Ddp(), tmp_path, steps=4)
    mixed = Mixed([fixed_rows()[:10], fixed_rows()[10:]], Schedule([(None, (1, 1))]))
    loop.batches._rows, loop.domains = mixed, Domains(["web", "code"], mixed)
    loop.ledger._sizes = [10, 13]
    weights = []
    means = loop.domains.means

    def both(sums):
        weights.append((sums["weight/web"], sums["weight/code"]))
        return means(sums)

    loop.domains.means = both
    for step in range(4):
        row = loop.step(step)
        web, code = weights[-1]
        assert web > 0 and code > 0
        assert row["loss"] == pytest.approx((row["loss/web"] * web + row["loss/code"] * code) / (web + code), rel=1e-5)
        assert "weight/web" not in row
    assert seen == []
