"""The engine's place in a run: how much work a token is."""

from __future__ import annotations

import pytest

from raylm.train.config import Train
from raylm.trainer.build import flops_of

TOKENS = {"vocab_size": 40, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": 16}


@pytest.mark.parametrize(
    ("table", "passes"),
    [({}, 3), ({"adapter": {}}, 2), ({"objective": {"kind": "dpo"}}, 4), ({"adapter": {}, "objective": {"kind": "dpo"}}, 3)],
)
def test_frozen_weights_have_no_gradient_and_a_reference_only_a_forward_pass(table, passes):
    shape = {"kind": "llama", "hidden_size": 16, "num_layers": 1, "num_heads": 2, "intermediate_size": 16, "num_kv_heads": 1}
    cfg = Train(stage="train", rows="rows", model=shape, batch=1, steps=1, workers={"device": "h100"}, **table)
    config = cfg.model.build(TOKENS, 0).config.to_dict()
    each, peak = flops_of(cfg, config, TOKENS["length"], 2, cfg.objective.num_passes)
    # 2 x (4 attention matrices, of which two are half as wide; 3 of the MLP; the head) + 2 x 2 x 16 x 16 of attention's pairs
    forward = 2 * (3 * 16 * 16 + 3 * 16 * 16 + 16 * 40) + 2 * 2 * 16 * 16
    assert each == pytest.approx(passes * forward) and peak == 2 * 989e12
