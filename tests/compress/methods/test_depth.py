"""Depth pruning: what matters stays, the config follows, and the smaller model is the parent without those layers."""

from __future__ import annotations

import copy
import json

import pytest
import torch

from raylm.compress.blocks import decoder_blocks
from raylm.compress.methods.depth import Depth
from raylm.compress.pruning.layers import distances, loss
from raylm.core.errors import ConfigError, DataError
from tests.compress.pruned import apart, calibration, family, logits
from tests.model.tiny import tiny_composite

IMPORTANCES = ("block_influence", "consecutive", "loss")


def without(model, removed):
    """The parent with layers taken out of its list by hand."""
    cut = copy.deepcopy(model)
    prefix, blocks = decoder_blocks(cut)
    kept = [at for at in range(len(blocks)) if at not in removed]
    parent, _, own = prefix.rpartition(".")
    setattr(cut.get_submodule(parent), own, torch.nn.ModuleList(blocks[at] for at in kept))
    cut.config.num_hidden_layers = len(kept)
    if getattr(cut.config, "layer_types", None):
        cut.config.layer_types = [cut.config.layer_types[at] for at in kept]
    return cut


def test_distances_are_one_less_the_cosine():
    model, rows = family("llama"), calibration()
    with torch.no_grad():
        states = model(torch.tensor(rows.rows), output_hidden_states=True).hidden_states
    # transformers gives the last one behind the final norm
    for span in (1, 2):
        ours = distances(model, rows, span)
        assert len(ours) == 5 - span
        for at in range(4 - span):
            cosine = torch.nn.functional.cosine_similarity(states[at], states[at + span], dim=-1)
            assert ours[at] == pytest.approx(float((1 - cosine).mean()), abs=1e-5)


def test_loss_is_transformers_own():
    model, rows = family("llama"), calibration()
    ids = torch.tensor(rows.rows)
    with torch.no_grad():
        assert loss(model, rows) == pytest.approx(float(model(ids, labels=ids).loss), rel=1e-5)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_numbers_that_are_not_finite_choose_no_layers(importance):
    model, rows = family("mistral"), calibration()
    with torch.no_grad():
        model.get_input_embeddings().weight[int(rows.rows[0][3])] = torch.nan
    with pytest.raises(DataError, match="not finite"):
        Depth(share=0.5, importance=importance).apply(model, rows)


# the loss of a random model may be less without any of its layers
@pytest.mark.parametrize("importance", IMPORTANCES[:2])
def test_layers_that_do_nothing_go_and_no_logit_changes(importance):
    model = family("llama")
    for at in (1, 2):
        model.model.layers[at].self_attn.o_proj.weight.data.zero_()
        model.model.layers[at].mlp.down_proj.weight.data.zero_()
    applied = Depth(num_layers=2, importance=importance).apply(model, calibration())
    assert applied.facts["layers_kept"] == [0, 3]
    assert applied.metrics["num_layers"] == 2 and applied.metrics["parameter_ratio"] > 1.3
    assert apart(logits(model), logits(applied.model)) < 1e-6


def test_by_loss_the_layer_goes_without_which_the_loss_is_least():
    model, rows = family("llama"), calibration()
    applied = Depth(num_layers=2, importance="loss").apply(model, rows)
    first = min(range(4), key=lambda at: loss(without(model, [at]), rows))
    second = min((at for at in range(4) if at != first), key=lambda at: loss(without(model, [first, at]), rows))
    assert [step["layer"] for step in applied.facts["importance"]] == [first, second]
    assert applied.facts["importance"][1]["loss"] == pytest.approx(loss(without(model, [first, second]), rows), abs=1e-5)
    assert applied.facts["layers_kept"] == [at for at in range(4) if at not in (first, second)]


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2", "phi3", "mixtral"])
def test_the_smaller_model_is_the_parent_without_those_layers(name, tmp_path):
    from transformers import AutoModelForCausalLM

    model = family(name)
    applied = Depth(share=0.75).apply(model, calibration())
    removed = [at for at in range(4) if at not in applied.facts["layers_kept"]]
    assert len(removed) == 1
    cut = logits(without(model, removed))
    assert apart(cut, logits(applied.model)) < 1e-5
    applied.model.save_pretrained(tmp_path)
    assert torch.equal(logits(applied.model), logits(AutoModelForCausalLM.from_pretrained(tmp_path).eval()))
    config = json.loads((tmp_path / "config.json").read_text())
    assert config.get("num_hidden_layers", config.get("n_layer")) == 3
    for kinds in [config[key] for key in ("layer_types",) if config.get(key)]:
        assert kinds == [kind for at, kind in enumerate(model.config.layer_types) if at not in removed]
    tied = applied.model.get_output_embeddings().weight is applied.model.get_input_embeddings().weight
    assert tied == (model.get_output_embeddings().weight is model.get_input_embeddings().weight)


@pytest.mark.parametrize("importance", IMPORTANCES)
def test_all_layers_are_the_same_model(importance):
    model = family("qwen3")
    applied = Depth(share=1.0, importance=importance).apply(model, calibration())
    assert all(torch.equal(weight, applied.model.state_dict()[name]) for name, weight in model.state_dict().items())
    assert torch.equal(logits(model), logits(applied.model))


def test_layers_that_depend_on_their_number_are_refused():
    model = family("gpt2", scale_attn_by_inverse_layer_idx=True)
    for weights in (model.transformer.h[0].attn.c_proj, model.transformer.h[0].mlp.c_proj):
        weights.weight.data.zero_()
    with pytest.raises(ConfigError, match="layer 1 of gpt2 would be set up otherwise as layer 0"):
        Depth(num_layers=3).apply(model, calibration())


def test_other_models_and_numbers_are_refused():
    with pytest.raises(ConfigError, match="num_layers = 9, but the model has 4"):
        Depth(num_layers=9).apply(family("llama"), calibration())
    with pytest.raises(ConfigError, match="decoders of text alone"):
        Depth().apply(tiny_composite(), calibration())
    with pytest.raises(ValueError, match="either `share` or `num_layers`"):
        Depth(share=0.5, num_layers=2)


def test_plan_counts_the_layers_that_stay():
    assert Depth(share=0.3).planned({"num_hidden_layers": 10})["num_hidden_layers"] == 3
    assert Depth(num_layers=5).planned({"n_layer": 12, "n_head": 2}) == {"n_layer": 5, "n_head": 2}
    with pytest.raises(ConfigError, match="num_layers = 5, but the model has 4"):
        Depth(num_layers=5).planned({"num_hidden_layers": 4})
