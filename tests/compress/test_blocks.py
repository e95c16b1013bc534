"""The walk over decoder blocks: every family's own masks and positions, and statistics against those of the whole model."""

from __future__ import annotations

import pytest
import torch

from raylm.compress.calibration import Calibration
from raylm.core.errors import ConfigError
from tests.compress.test_coverage import KEYS, made

ROWS = [torch.arange(5 + 7 * row, 5 + 7 * row + length) % 300 for row, length in enumerate((24, 24, 17, 24))]
FAMILIES = {
    "llama": {"num_key_value_heads": 2},
    # layers of two kinds: each has masks of its own
    "gemma2": {**KEYS, "sliding_window": 8},
    "gpt2": {},
    "gpt_neox": {},
    "qwen3_moe": {**KEYS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 64},
}


@pytest.mark.parametrize("family", FAMILIES)
def test_statistics_are_those_of_what_enters_each_layer_of_the_whole_model(family):
    model = made(family, **FAMILIES[family]).eval()
    calibration = Calibration(ROWS)
    seen: dict[str, list[torch.Tensor]] = {}
    calibration.inputs(model, lambda name, x: seen.setdefault(name, []).append(x.reshape(-1, x.shape[-1])))
    found = {name: each for block in calibration.blocks(model) for name, each in block.statistics().items()}
    head = next(name for name, module in model.named_modules() if module is model.get_output_embeddings())
    assert found.keys() == seen.keys() - {head} and len(found) >= 8
    for name, each in found.items():
        x_NI = torch.cat(seen[name])
        assert each.num_tokens == len(x_NI) == 24 * 3 + 17
        torch.testing.assert_close(each.gram_II, x_NI.T @ x_NI, rtol=1e-4, atol=1e-4 * float(each.gram_II.abs().max()))
        torch.testing.assert_close(each.norms_I, x_NI.norm(dim=0), rtol=1e-3, atol=1e-4)
        torch.testing.assert_close(each.absmax_I, x_NI.abs().amax(0), rtol=1e-4, atol=1e-5)


def test_the_next_block_is_entered_by_what_the_changed_one_gives():
    model = made("llama", num_key_value_heads=2).eval()
    calibration = Calibration(ROWS)
    walk = calibration.blocks(model)
    first = next(walk)
    before = [first.run(at) for at in range(len(first.hidden))]
    first.module.mlp.down_proj.weight.data.zero_()
    second = next(walk)
    assert not any(left.allclose(right) for left, right in zip(second.hidden, before, strict=True))
    assert all(first.run(at).equal(each) for at, each in enumerate(second.hidden))
    # resumed at the second: earlier blocks are not run again
    (again,) = calibration.blocks(model, start=1, hidden=before)
    assert again.index == 1 and all(left.equal(right) for left, right in zip(again.hidden, before, strict=True))


def test_states_that_pass_by_the_blocks_are_refused():
    model = made("llama", num_key_value_heads=2).eval()
    # a walk hands each block the output of the one before; here the model does not
    model.model.layers[1].register_forward_pre_hook(lambda _, args: (args[0] * 0.5, *args[1:]) if model.training else None)
    last = model.model.layers[1]
    plain = last.forward
    calls = []
    last.forward = lambda hidden, **kwargs: (calls.append(1), plain(hidden * len(calls), **kwargs))[1]
    with pytest.raises(ConfigError, match="no chain: states pass by them"):
        next(Calibration(ROWS).blocks(model))


def test_an_encoder_beside_a_decoder_is_refused():
    from transformers import T5Config, T5ForConditionalGeneration

    model = T5ForConditionalGeneration(T5Config(vocab_size=300, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2))
    with pytest.raises(ConfigError, match="an encoder beside a decoder"):
        next(Calibration(ROWS).blocks(model))


def test_a_fault_beside_a_massive_activation_is_seen():
    """One channel holds numbers ten thousand times as large: a walk that loses a twentieth of all others is no walk."""
    model = made("llama", num_key_value_heads=2).eval()
    model.model.embed_tokens.weight.data[:, 5] = 1e4
    last, calls = model.model.layers[1], []
    plain = last.forward

    def forward(hidden, **kwargs):
        calls.append(1)
        scale = torch.ones(hidden.shape[-1])
        scale[8:] = 1.0 if len(calls) < 3 else 0.95
        return plain(hidden, **kwargs) * scale

    last.forward = forward
    with pytest.raises(ConfigError, match="no chain: states pass by them"):
        next(Calibration(ROWS[:1]).blocks(model))
