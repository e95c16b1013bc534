"""Weights that move: their average by hand, it is cut as they are, saved, and what is measured and exported."""

from __future__ import annotations

import pytest
import torch

from raylm.parallel.optimizers.ema import Ema
from raylm.parallel.strategies.ddp import Ddp
from tests.parallel.loops import make_loop

HEADS = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 2, "intermediate_size": 64, "max_length": 64}


def test_the_average_by_hand():
    weight = torch.nn.Parameter(torch.tensor([1.0]))
    ema = Ema([("w", weight)], 0.9)
    for value in (2.0, 3.0):
        weight.data.fill_(value)
        ema.update()
    # 1 -> 0.9 + 0.2 = 1.1 -> 0.99 + 0.3 = 1.29
    assert float(ema.state()["w"]) == pytest.approx(1.29)
    with ema.swapped():
        assert weight.item() == pytest.approx(1.29)
    assert weight.item() == 3.0
    other = Ema([("w", torch.nn.Parameter(torch.zeros(1)))], 0.9)
    other.restore(ema.state())
    assert float(other.state()["w"]) == pytest.approx(1.29)


def test_a_step_that_is_not_finite_does_not_move_it(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path, steps=2, max_skipped=2, ema=0.5)
    before = {name: value.clone() for name, value in loop.engine.ema.state().items()}
    loop.engine.bare.lm_head.register_forward_hook(lambda *call: call[2] * float("nan"))
    loop.run()
    assert all(value.equal(before[name]) for name, value in loop.engine.ema.state().items())


def test_held_out_metrics_are_those_of_the_average(tmp_path):
    averaged, plain = make_loop(Ddp(), tmp_path / "a", ema=0.5), make_loop(Ddp(), tmp_path / "b")
    found, other = averaged[0].run(), plain[0].run()
    assert [row["loss"] for row in averaged[1]] == [row["loss"] for row in plain[1]]
    assert found["held_out_loss_after"] != pytest.approx(other["held_out_loss_after"], abs=1e-4)
    assert found["held_out_loss_before"] == pytest.approx(other["held_out_loss_before"])


@pytest.mark.parametrize("strategy", ["ddp", "fsdp"])
def test_two_ranks_average_as_one_does(strategy):
    from raylm.parallel.strategies.fsdp import Fsdp
    from tests.parallel.parity import assert_parity

    assert_parity(2, {"ddp": Ddp, "fsdp": Fsdp}[strategy](), ema=0.9)


@pytest.mark.parametrize("layout", ["gathered", "tensor"])
def test_weights_that_stay_gathered_are_not_those_of_the_average(layout):
    from raylm.parallel.strategies.fsdp import Fsdp
    from tests.parallel.parity import assert_parity

    strategy, world, mesh = {"gathered": (Fsdp(reshard=False), 2, {}), "tensor": (Ddp(), 4, {"tensor": 2})}[layout]
    assert_parity(world, strategy, mesh=mesh, ema=0.5, evaluate_every=1, **({} if layout == "gathered" else {"model": HEADS}))
