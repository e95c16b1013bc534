"""Factors of learning rates: by name, by depth, of LoRA+; each parameter is in one group."""

from __future__ import annotations

import pytest
import torch
import transformers

from raylm.core.errors import ConfigError
from raylm.model.adapters.lora import Lora
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.optimizers.muon import Muon
from raylm.parallel.optimizers.rates import with_rates
from tests.model.tiny import tiny_model


def model(layers: int = 2):
    made = tiny_model(vocab=70, hidden=32, layers=layers)
    made.lm_head.weight = torch.nn.Parameter(made.lm_head.weight.detach().clone())
    return made


def rates(card, network, adapter=None) -> dict[str, float]:
    """Each parameter's learning rate over the card's."""
    made = with_rates(card, network, adapter).make(network)
    scales = {id(p): group.get("lr_scale", 1.0) for group in made.param_groups for p in group["params"]}
    assert len(scales) == sum(len(group["params"]) for group in made.param_groups)
    return {name: scales[id(p)] for name, p in network.named_parameters() if p.requires_grad}


def test_layers_decay_towards_the_embedding():
    found = rates(AdamW(layerwise_lr_decay=0.5, lr_scale={"mlp": 3.0}), model())
    # L = 2 blocks: block 1 has 0.5, block 0 0.25, the embedding 0.125; what is behind them the whole rate
    assert found["model.embed_tokens.weight"] == 0.125
    assert found["model.layers.0.self_attn.q_proj.weight"] == 0.25 and found["model.layers.1.input_layernorm.weight"] == 0.5
    assert found["model.layers.0.mlp.up_proj.weight"] == 0.75
    assert found["lm_head.weight"] == found["model.norm.weight"] == 1.0


def test_ten_blocks_and_more_are_told_apart():
    found = rates(AdamW(layerwise_lr_decay=0.9), model(11))
    assert found["model.layers.1.mlp.up_proj.weight"] == pytest.approx(0.9**10)
    assert found["model.layers.10.mlp.up_proj.weight"] == pytest.approx(0.9)


def test_blocks_that_are_stacks_of_layers_are_counted_by_block():
    small = {"d_model": 16, "d_kv": 8, "d_ff": 16, "num_layers": 3, "num_heads": 2, "vocab_size": 20}
    found = rates(AdamW(layerwise_lr_decay=0.5), transformers.T5ForConditionalGeneration(transformers.T5Config(**small)))
    for stack in ("encoder", "decoder"):
        of = {at: {rate for name, rate in found.items() if name.startswith(f"{stack}.block.{at}.")} for at in range(3)}
        assert of == {0: {0.125}, 1: {0.25}, 2: {0.5}}
    assert found["shared.weight"] == 0.0625 and found["encoder.final_layer_norm.weight"] == 1.0


def test_a_tied_weight_by_its_other_name_is_refused():
    tied = tiny_model(vocab=70, hidden=32, layers=1)
    with pytest.raises(ConfigError, match=r"lm_head.weight is model.embed_tokens.weight"):
        with_rates(AdamW(lr_scale={"lm_head": 0.1}), tied)
    assert rates(AdamW(lr_scale={"embed_tokens": 0.1}), tied)["model.embed_tokens.weight"] == 0.1


def test_muon_keeps_its_rate_for_the_rest():
    card = Muon(lr=0.02, lr_rest=0.004, lr_scale={"norm": 0.5})
    found = rates(card, model())
    assert found["model.norm.weight"] == pytest.approx(0.1) and found["lm_head.weight"] == pytest.approx(0.2)
    assert found["model.layers.0.mlp.up_proj.weight"] == 1.0


def test_the_second_matrix_of_lora_learns_faster():
    card = Lora(modules=["q_proj", "embed_tokens"], use_dora=True, loraplus_lr_ratio=16.0)
    found = rates(AdamW(lr=1e-3), card.attach(model(), 0), card)
    by_kind: dict[str, set[float]] = {}
    for name, scale in found.items():
        by_kind.setdefault(name.split(".lora_")[1].split(".")[0], set()).add(round(scale, 6))
    assert by_kind == {"A": {1.0}, "B": {16.0}, "magnitude_vector": {16.0}, "embedding_A": {0.001}, "embedding_B": {0.001}}


def test_without_factors_groups_are_as_ever():
    groups = AdamW().make(model()).param_groups
    assert [group["weight_decay"] for group in groups] == [0.1, 0.0] and not any("lr_scale" in group for group in groups)


def test_a_pattern_that_means_nothing_is_refused():
    with pytest.raises(ConfigError, match=r"optimizer.lr_scale.*'embd_tokens'.*Did you mean 'embed_tokens'"):
        with_rates(AdamW(lr_scale={"embd_tokens": 2.0}), model())
