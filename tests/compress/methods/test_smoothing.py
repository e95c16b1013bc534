"""Scales that are folded away: the model computes the same, family by family, and what cannot be folded stays as it is."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.calibration import Calibration
from raylm.compress.methods.smoothing import Pair, even, pairs, smooth
from tests.compress.test_coverage import KEYS, made

ROWS = [torch.arange(5, 29) + row for row in range(2)]
NORM, ATTENTION, MLP = ["q_proj", "k_proj", "v_proj"], ["o_proj"], ["down_proj"]
FOUR = [NORM, ["gate_proj", "up_proj"], ATTENTION, MLP]
FAMILIES = {
    "llama": ({"num_key_value_heads": 1}, FOUR),
    # norms that multiply by one more than their weight
    "gemma2": (KEYS, FOUR),
    "gpt_neox": ({}, [["query_key_value"], ["dense_h_to_4h"]]),
    "phi3": ({"num_key_value_heads": 2}, [["qkv_proj"], ["gate_up_proj"]]),
    "opt": ({"ffn_dim": 128, "word_embed_proj_dim": 64}, [NORM, ["fc1"]]),
}


@pytest.mark.parametrize("largest", [1.0, 1e5])
@pytest.mark.parametrize("family", FAMILIES)
def test_the_model_computes_the_same(family, largest):
    fields, expected = FAMILIES[family]
    model = made(family, **fields).eval()
    # one channel of one token, as trained models have: beside it all else is small
    model.get_input_embeddings().weight.data[ROWS[0][0], 7] *= largest
    for p in model.parameters():
        # norms of a trained model are not all ones, nor its biases zeros
        p.data += torch.rand_like(p) * 0.3 if p.dim() == 1 else 0.0
    with torch.no_grad():
        before = model(input_ids=ROWS[0][None]).logits
        weights = {name: p.clone() for name, p in model.named_parameters()}
        for block in Calibration(ROWS).blocks(model):
            found = pairs(block)
            assert [[name.rpartition(".")[2] for name in pair.layers] for pair in found] == expected
            for pair in found:
                assert smooth(block, pair, even(pair, torch.randn(block.layers[pair.layers[0]].in_features).exp()))
        # what is added to 100,000 is known to a hundredth
        apart = 1e-4 if largest == 1 else 1e-2
        torch.testing.assert_close(model(input_ids=ROWS[0][None]).logits, before, rtol=1e-4, atol=apart)
    assert not any(model.get_parameter(name).equal(weights[name]) for name in weights if f"{expected[0][0]}.weight" in name)


def test_a_scale_that_cannot_be_folded_changes_nothing():
    model = made("llama", num_key_value_heads=2).eval()
    (first, *_) = Calibration(ROWS).blocks(model)
    before = {name: p.clone() for name, p in model.named_parameters()}
    # another reader of the norm sees its outputs change
    wrong = Pair(first.module.input_layernorm, [f"{first.name}.self_attn.q_proj"])
    assert not smooth(first, wrong, torch.full((64,), 2.0))
    assert all(p.equal(before[name]) for name, p in model.named_parameters())


def test_heads_of_one_group_share_their_scale():
    pair = Pair(None, [], repeats=2, head_size=2)
    assert even(pair, torch.tensor([1.0, 4.0, 4.0, 1.0, 9.0, 1.0, 1.0, 1.0])).tolist() == pytest.approx([2, 2, 2, 2, 3, 1, 3, 1])
