"""What a head is asked, on every layout: likeliest tokens, values and their gradients are those of one rank."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch

from raylm.data.batch import pad, share_of
from raylm.model.head import Asks
from raylm.model.scores import Scores, causal, last_token
from raylm.model.value_head import with_value_head
from raylm.parallel.assemble import assemble
from raylm.parallel.optimizers.adamw import AdamW
from raylm.train.config import Train
from raylm.train.objectives.objective import Loss
from tests.parallel.loops import SHAPE, TOKENS
from tests.parallel.on_ranks import on_ranks

LAYOUTS = {
    "fsdp": ({"kind": "fsdp"}, {}),
    "ddp": ({"kind": "ddp"}, {}),
    "tensor": ({"kind": "fsdp"}, {"tensor": 2}),
    "context": ({"kind": "fsdp"}, {"context": 2}),
    "pipeline": ({"kind": "fsdp"}, {"pipeline": 2}),
    "v": ({"kind": "ddp"}, {"pipeline": 2, "schedule": "zero_bubble"}),
}
ROWS = [np.random.default_rng(5).integers(3, 64, size) for size in (5, 9, 12, 7)]


def config(strategy: dict[str, Any], mesh: dict[str, Any], world: int) -> Train:
    shape = {**SHAPE, "num_layers": 4, "num_kv_heads": 2}
    fixed = {"rows": "rows", "batch": 4, "steps": 2, "optimizer": AdamW(lr=1e-2, schedule="constant", warmup=0.0)}
    return Train(stage="train", model=shape, strategy=strategy, mesh=mesh, workers={"count": world}, **fixed)


def likeliest(rank: int, world: int, names: list[str]) -> dict[str, list[Any]]:
    """The four likeliest tokens at every position, and the target's log-probability."""
    found = {}
    for name in names:
        cfg = config(*LAYOUTS[name], world)
        engine = assemble(cfg.model.build(TOKENS, 0).eval(), cfg, 2, rank=rank, world=world)
        scores = engine.forward([causal(pad([row], [np.ones(len(row))], 0)) for row in ROWS], Asks(top_k=4))
        found[name] = [(one.top_id_BTK, one.top_logprob_BTK, one.logprob_BT) for one in scores]
    return found


def given(rank: int, world: int, names: list[str]) -> dict[str, Any]:
    """Scores of given tokens before, and the weights after two steps towards other likelihoods of them and of the rest."""
    found = {}
    for name in names:
        cfg = config(*LAYOUTS[name], world)
        engine = assemble(cfg.model.build(TOKENS, 0).train(), cfg, 2, rank=rank, world=world)
        asks, every = Asks(at_ids=3, at_temperature=1.5), []
        for row in ROWS:
            one = causal(pad([row], [np.ones(len(row))], 0))
            every.append(one._replace(id_BTK=(one.target_BT[..., None] + torch.tensor([0, 1, 30])) % 64))
        before = [(one.at_logprob_BTK, one.rest_logprob_BT) for one in engine.forward(every, asks)]
        mine = [part[0][0] for part in share_of(range(4), engine.grid.data_rank, engine.grid.data_world, 1)]

        def loss(index: int, scores: Scores, mine: list[int] = mine, every: list[Any] = every) -> Loss:
            weight_BT, wanted_K = every[mine[index]].weight_BT, torch.tensor([0.4, 0.2, 0.1])
            total = -((scores.at_logprob_BTK * wanted_K).sum(2) + 0.3 * scores.rest_logprob_BT) * weight_BT
            return Loss(total.sum() / 20, {"loss": total.detach().sum()})

        sums = []
        for _ in range(2):
            sums.append(engine.accumulate([every[at] for at in mine], loss, asks)["loss"])
            engine.step()
        found[name] = (before, sums, engine.weights())
    return found


def values(rank: int, world: int, names: list[str]) -> dict[str, Any]:
    """Value of each row, and the weights after two steps towards the rows' numbers."""
    found = {}
    for name in names:
        cfg = config(*LAYOUTS[name], world)
        engine = assemble(with_value_head(cfg.model.build(TOKENS, 0), 0).train(), cfg, 2, rank=rank, world=world)
        asks, every = Asks(values=True), [last_token(pad([row], [np.ones(len(row))], 0)) for row in ROWS]
        before = [float(one.value_B) for one in engine.forward(every, asks)]
        mine = [part[0][0] for part in share_of(range(4), engine.grid.data_rank, engine.grid.data_world, 1)]

        def loss(index: int, scores: Scores, mine: list[int] = mine) -> Loss:
            total = (scores.value_B - mine[index]).square().sum()
            return Loss(total / 4, {"loss": total.detach()})

        sums = []
        for _ in range(2):
            sums.append(engine.accumulate([every[at] for at in mine], loss, asks)["loss"])
            engine.step()
        found[name] = (before, sums, engine.weights())
    return found


def test_likeliest_tokens_on_every_layout():
    expected = likeliest(0, 1, ["ddp"])["ddp"]
    for found in on_ranks(2, likeliest, list(LAYOUTS)):
        for name, rows in found.items():
            for (ids, top, logprob), (right_ids, right_top, right_logprob) in zip(rows, expected, strict=True):
                assert ids.equal(right_ids), name
                torch.testing.assert_close(top, right_top, atol=1e-5, rtol=1e-5)
                torch.testing.assert_close(logprob, right_logprob, atol=1e-5, rtol=1e-5)


def test_given_tokens_and_what_is_learned_from_them_on_every_layout():
    before, sums, weights = given(0, 1, ["ddp"])["ddp"]
    assert sums[1] < sums[0]
    first, second = on_ranks(2, given, list(LAYOUTS))
    for name, (found, of_sums, learned) in first.items():
        for mine, theirs, right in zip(found, second[name][0], before, strict=True):
            for left, middle, each in zip(mine, theirs, right, strict=True):
                torch.testing.assert_close(left, each, atol=1e-5, rtol=1e-5, msg=name)
                torch.testing.assert_close(middle, each, atol=1e-5, rtol=1e-5, msg=name)
        assert np.allclose(of_sums, sums, rtol=1e-5), name
        for key, tensor in learned.items():
            torch.testing.assert_close(tensor, weights[key], atol=2e-5, rtol=1e-4, msg=f"{name} {key}")


def test_values_and_what_is_learned_from_them_on_every_layout():
    before, sums, weights = values(0, 1, ["ddp"])["ddp"]
    assert "score.weight" in weights and "lm_head.weight" not in weights and sums[1] < sums[0]
    first, second = on_ranks(2, values, list(LAYOUTS))
    for name, (found, told, learned) in first.items():
        assert np.allclose(found, before, atol=1e-6) and np.allclose(second[name][0], before, atol=1e-6), name
        assert np.allclose(told, sums, rtol=1e-5), name
        assert learned.keys() == weights.keys()
        for key, tensor in learned.items():
            torch.testing.assert_close(tensor, weights[key], atol=2e-5, rtol=1e-4, msg=f"{name} {key}")
