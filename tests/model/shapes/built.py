"""Facts of a built model that the tests of every family check."""

from __future__ import annotations

from typing import Any

from raylm.model.checkpoint import num_parameters
from raylm.model.model_spec import model_spec

TOKENS = {"vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
SMALL = {"hidden_size": 32, "num_layers": 3, "num_heads": 4}
EXPERTS = SMALL | {"num_experts": 8, "experts_per_token": 2, "expert_size": 16}


def counted(shape: Any) -> Any:
    """The model of `shape`, whose parameters were counted before it was built and from its config.json after."""
    model = shape.build(TOKENS, 0)
    assert shape.num_parameters(70) == num_parameters(model)
    assert model_spec(model.config.to_diff_dict()).num_parameters() == num_parameters(model)
    return model
