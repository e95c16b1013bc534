"""Objectives on preferences and labels: two ranks under any mesh do what one does; a planted preference is learned."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.objectives.cpo import Cpo
from raylm.train.objectives.dpo import Dpo
from raylm.train.objectives.kto import Kto
from raylm.train.objectives.orpo import Orpo
from raylm.train.objectives.simpo import Simpo
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_same, trained
from tests.parallel.tensor.test_shard import HEADS
from tests.train.objectives.preferences import learned, planted, two_models

OBJECTIVES: dict[str, dict[str, Any]] = {
    "dpo-rpo": {"kind": "Pairs", "objective": {"kind": "dpo", "rpo_alpha": 0.5}},
    "orpo": {"kind": "Pairs", "objective": {"kind": "orpo"}},
    "cpo": {"kind": "Pairs", "objective": {"kind": "cpo"}},
    "simpo": {"kind": "Pairs", "objective": {"kind": "simpo"}},
    "kto": {"kind": "Unpaired", "objective": {"kind": "kto"}},
    "pointwise_reward": {"kind": "Unpaired", "objective": {"kind": "pointwise_reward"}},
    "classification": {"kind": "Labelled", "objective": {"kind": "classification", "num_labels": 3}},
    "reward": {"kind": "Pairs", "objective": {"kind": "reward", "center_rewards_coefficient": 0.01}},
}
LAYOUTS: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddp": (Ddp(), {}),
    "fsdp-micro-1": (Fsdp(), {"micro": 1}),
    "tensor": (Fsdp(), {"mesh": {"tensor": 2}}),
    "pipeline": (Fsdp(), {"mesh": {"pipeline": 2}, "micro": 1}),
    "context": (Fsdp(), {"mesh": {"context": 2, "context_method": "ring"}}),
}
CASES = [
    *(("ddp", name) for name in OBJECTIVES),
    *((layout, name) for layout in list(LAYOUTS)[1:] for name in ("dpo-rpo", "kto", "classification")),
    ("tensor", "orpo"),
]


def every(rank: int, world: int) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for layout, name in CASES:
        strategy, keys = LAYOUTS[layout]
        found[layout, name] = trained(rank, world, strategy, {"model": HEADS, **OBJECTIVES[name], **keys})
    return found


@pytest.fixture(scope="module")
def two_ranks():
    return on_ranks(2, every)


@pytest.mark.parametrize(("layout", "name"), CASES, ids=map("-".join, CASES))
def test_two_ranks_do_what_one_does(two_ranks, layout, name):
    """A batch of 5 rows, of which one rank gets 3 and the other 2 and one that fills up; answers differ in length."""
    found = assert_same([one[layout, name] for one in two_ranks], {"model": HEADS, **OBJECTIVES[name]})
    assert "accuracy" in found["rows"][0]


FOUR: dict[str, tuple[Any, dict[str, Any]]] = {
    "ddp": (Ddp(), {}),
    "fsdp-tensor": (Fsdp(), {"mesh": {"tensor": 2}}),
    "fsdp-pipeline": (Fsdp(), {"mesh": {"pipeline": 2}, "micro": 1}),
    "tensor-context": (Fsdp(), {"mesh": {"tensor": 2, "context": 2, "context_method": "ring"}}),
}
FOUR_CASES = [
    *(("ddp", name) for name in OBJECTIVES),
    *((layout, name) for layout in list(FOUR)[1:] for name in ("dpo-rpo", "kto", "classification")),
]


def every_of_four(rank: int, world: int) -> dict[tuple[str, str], dict[str, Any]]:
    found = {}
    for layout, name in FOUR_CASES:
        strategy, keys = FOUR[layout]
        found[layout, name] = trained(rank, world, strategy, {"model": HEADS, **OBJECTIVES[name], **keys})
    return found


@pytest.mark.long
def test_four_ranks_do_what_one_does():
    """One row at least for each of the four, of five: three of them fill up."""
    ranks = on_ranks(4, every_of_four)
    for layout, name in FOUR_CASES:
        # sums of four parts round otherwise: 3e-6 in a margin after training
        assert_same([one[layout, name] for one in ranks], {"model": HEADS, **OBJECTIVES[name]}, abs_loss=1e-5)


@pytest.mark.parametrize(
    "card", [Dpo(), Dpo(loss_type="ipo", rpo_alpha=0.1), Orpo(beta=1.0), Simpo(), Cpo(), Kto()], ids=lambda card: card.kind
)
def test_a_planted_preference_is_learned(card):
    """Which of two kinds of answers is the better one depends on the prompt; prompts and answers of the held-out rows are new."""
    policy, start = two_models(vocab=64)
    start.load_state_dict(policy.state_dict())
    train, held_out = planted(card.rows[0])
    optimizer = torch.optim.AdamW(policy.parameters(), lr=3e-3)
    before = learned(card, policy, held_out, start).metrics["accuracy"]
    for at in range(60):
        learned(card, policy, [train[at % len(train)]], start)
        optimizer.step()
    after = learned(card, policy, held_out, start).metrics
    assert before < 0.7 and after["accuracy"] >= 0.95 and after["margin"] > 0
