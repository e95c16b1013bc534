"""DDP on two ranks: when gradients are reduced, and that it trains as FSDP does."""

from __future__ import annotations

import pytest
import torch

from raylm.parallel.blocks import separate_experts
from raylm.parallel.strategies.ddp import Ddp, has_unmet
from tests.model.tiny import tiny_model
from tests.parallel.loops import losses
from tests.parallel.on_ranks import on_ranks
from tests.parallel.sparse import trained


def test_gradients_are_reduced_once_a_step_with_the_last_micro_batch(two_ranks):
    assert two_ranks["ddp exchanges"] == [0, 1]


def test_names_are_those_of_hugging_face(two_ranks):
    assert not [name for name in two_ranks["ddp"]["weights"] if name.startswith("module.")]
    assert "model.embed_tokens.weight" in two_ranks["ddp"]["weights"]


@pytest.mark.parametrize("case", ["", " dpo", " lora"])
def test_ddp_and_fsdp_agree(two_ranks, case):
    assert losses(two_ranks[f"ddp{case}"]["rows"]) == pytest.approx(losses(two_ranks[f"fsdp{case}"]["rows"]), abs=1e-6)


def test_experts_that_a_rank_does_not_meet_learn_from_those_that_do():
    """One that nobody meets stays what it was; without a word about it the second step would fail."""
    alone, (first, _) = trained(0, 1, Ddp()), on_ranks(2, trained, Ddp())
    assert first["losses"] == pytest.approx(alone["losses"], abs=1e-5)
    for name, tensor in alone["weights"].items():
        assert float((first["weights"][name] - tensor).abs().max()) < 1e-4, name


def test_layouts_that_wait_for_every_gradient_refuse_such_experts():
    from tests.parallel.sparse import refusals

    for said in on_ranks(2, refusals):
        assert all("experts are modules of their own here (model.layers.0.mlp.experts)" in each for each in said.values())
        assert set(said) == {"fsdp", "deepspeed"}


def test_only_models_with_parts_that_a_row_does_not_meet_are_searched_for_them():
    model = tiny_model(vocab=64, hidden=32, layers=1)
    assert not has_unmet(model)
    model.vision = torch.nn.Linear(2, 2)
    assert has_unmet(model)
    model.vision.requires_grad_(False)
    assert not has_unmet(model)
    model.model.layers[0].mlp.experts = torch.nn.ModuleList([torch.nn.Linear(2, 2)])
    assert separate_experts(model) == "model.layers.0.mlp.experts" and has_unmet(model)
