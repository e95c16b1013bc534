"""Takes two ranks of DDP, proves when they talk and that both strategies train alike."""

from __future__ import annotations

import pytest

from tests.parallel.loops import losses


def test_gradients_are_exchanged_once_a_step_with_the_last_micro_batch(two_ranks):
    assert two_ranks["ddp exchanges"] == [0, 1]


def test_names_are_those_of_hugging_face(two_ranks):
    assert not [name for name in two_ranks["ddp"]["weights"] if name.startswith("module.")]
    assert "model.embed_tokens.weight" in two_ranks["ddp"]["weights"]


@pytest.mark.parametrize("case", ["", " dpo", " lora"])
def test_ddp_and_fsdp_agree(two_ranks, case):
    assert losses(two_ranks[f"ddp{case}"]["rows"]) == pytest.approx(losses(two_ranks[f"fsdp{case}"]["rows"]), abs=1e-6)
