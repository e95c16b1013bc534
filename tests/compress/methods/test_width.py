"""Width pruning: units that do nothing go without a trace, the config follows, and unknown layouts are refused."""

from __future__ import annotations

import json
from typing import Any

import pytest
import torch

from raylm.compress.methods.width import Width
from raylm.compress.pruning.importance import compensated, contributions
from raylm.core.errors import ConfigError
from tests.compress.pruned import apart, calibration, family, logits

# every other
GONE = {"ffn": range(0, 48, 2), "heads": [1], "hidden": range(0, 32, 2)}


def silence(model, what):
    """Set units to zero where they are made; what reads them stays as it is."""
    with torch.no_grad():
        for layer in model.model.layers:
            if what == "ffn":
                layer.mlp.up_proj.weight[list(GONE["ffn"])] = 0
            elif what == "heads":
                width = layer.self_attn.head_dim
                layer.self_attn.v_proj.weight[width : 2 * width] = 0
                if layer.self_attn.v_proj.bias is not None:
                    layer.self_attn.v_proj.bias[width : 2 * width] = 0
            else:
                layer.self_attn.o_proj.weight[list(GONE["hidden"])] = 0
                layer.mlp.down_proj.weight[list(GONE["hidden"])] = 0
        if what == "hidden":
            model.model.embed_tokens.weight[:, list(GONE["hidden"])] = 0


@pytest.mark.parametrize("importance", ["activation", "contribution"])
@pytest.mark.parametrize("what", ["ffn", "heads", "hidden"])
@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_units_that_are_zero_go_and_no_logit_changes(name, what, importance):
    # the epsilon of a norm is meant beside a mean over all channels: it alone would be seen
    model = family(name, rms_norm_eps=1e-12)
    silence(model, what)
    before = logits(model)
    made = Width.model_validate({what: 0.5, "importance": importance}).apply(model, calibration()).model
    assert apart(before, logits(made)) < 2e-5


@pytest.mark.parametrize("name", ["llama", "mistral", "qwen2", "qwen3", "gemma3", "gpt2", "mixtral"])
def test_the_whole_width_is_the_same_model(name):
    known = {"ffn": name != "mixtral", "heads": name != "gpt2", "hidden": name not in ("gpt2", "gemma3")}
    model = family(name)
    before, weights = logits(model), {key: weight.clone() for key, weight in model.state_dict().items()}
    made: Any = Width.model_validate({what: 1.0 for what, here in known.items() if here}).apply(model, calibration()).model
    assert all(torch.equal(weight, made.state_dict()[key]) for key, weight in weights.items())
    assert torch.equal(before, logits(made))


@pytest.mark.parametrize(
    ("name", "card", "fields"),
    [
        (
            "llama",
            Width(ffn=24, heads=1, hidden=24),
            {"intermediate_size": 24, "num_attention_heads": 2, "num_key_value_heads": 1, "hidden_size": 24, "head_dim": 8},
        ),
        ("mistral", Width(ffn=0.5, heads=0.5), {"intermediate_size": 24, "num_attention_heads": 2, "head_dim": 8}),
        ("qwen2", Width(ffn=0.25), {"intermediate_size": 12, "num_attention_heads": 4}),
        ("qwen2", Width(heads=0.5, hidden=0.5), {"hidden_size": 16, "num_attention_heads": 2, "num_key_value_heads": 1}),
        ("qwen3", Width(heads=1, hidden=0.75), {"hidden_size": 24, "num_attention_heads": 2, "head_dim": 16}),
        ("gemma3", Width(ffn=0.5, heads=0.5), {"intermediate_size": 24, "num_key_value_heads": 1, "head_dim": 8}),
        ("gpt2", Width(ffn=0.5), {"n_inner": 64, "n_embd": 32, "n_head": 4}),
        ("cohere", Width(ffn=0.5), {"intermediate_size": 24}),
    ],
)
def test_config_and_files_follow(name, card, fields, tmp_path):
    from transformers import AutoModelForCausalLM

    model = family(name)
    tied = model.get_output_embeddings().weight is model.get_input_embeddings().weight
    applied = card.apply(model, calibration())
    applied.model.save_pretrained(tmp_path)
    config = json.loads((tmp_path / "config.json").read_text())
    assert {key: config[key] for key in fields} == fields
    if name == "qwen2":
        # vLLM computes it of these two
        assert config.get("head_dim") in (None, config["hidden_size"] // config["num_attention_heads"])
    loaded: Any = AutoModelForCausalLM.from_pretrained(tmp_path).eval()
    assert torch.equal(logits(applied.model), logits(loaded))
    assert (loaded.get_output_embeddings().weight is loaded.get_input_embeddings().weight) == tied
    assert applied.metrics["num_parameters"] == sum(p.numel() for p in loaded.parameters())


def test_neurons_stay_by_minitrons_importance():
    model, rows = family("llama"), calibration()
    entered = []
    hook = model.model.layers[0].mlp.down_proj.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach()))
    with torch.no_grad():
        for row in rows.rows:
            model(torch.tensor([row]))
    hook.remove()
    # mean over the tokens of a row, L2 over rows
    scores = torch.stack([x[0].abs().mean(0) for x in entered]).square().sum(0).sqrt()
    kept = scores.topk(24).indices.sort().values
    whole = model.model.layers[0].mlp.up_proj.weight.clone()
    made = Width(ffn=0.5, importance="activation", compensate=False).apply(model, rows).model
    assert torch.equal(made.model.layers[0].mlp.up_proj.weight, whole[kept])


def test_heads_stay_by_the_norm_of_what_they_give():
    model, rows = family("qwen3"), calibration()
    entered = []
    hook = model.model.layers[0].self_attn.o_proj.register_forward_pre_hook(lambda _, args: entered.append(args[0].detach()))
    with torch.no_grad():
        for row in rows.rows:
            model(torch.tensor([row]))
    hook.remove()
    # two query heads of 16 share a key and a value head
    norms = torch.stack([x[0].view(-1, 2, 32).norm(dim=-1).mean(0) for x in entered]).square().sum(0)
    kept = int(norms.argmax())
    applied = Width(heads=1, importance="activation").apply(model, rows)
    assert applied.facts["heads_kept"][0] == [kept] and len(applied.facts["heads_kept"]) == 4


def test_contributions_by_hand():
    gram, weight = torch.diag(torch.tensor([4.0, 9.0, 1.0, 1.0])), torch.tensor([[1.0, 0.0, 3.0, 0.0], [0.0, 2.0, 4.0, 1.0]])
    # 4 * 1, 9 * 4, 1 * 25, 1 * 1; two units of two inputs each
    assert contributions(gram, weight, 4).tolist() == [2.0, 6.0, 5.0, 1.0]
    assert contributions(gram, weight, 2).tolist() == pytest.approx([40**0.5, 26**0.5])


def test_what_stays_makes_up_for_what_goes_as_least_squares_does():
    torch.manual_seed(2)
    x = torch.randn(200, 12, dtype=torch.double) @ torch.randn(12, 12, dtype=torch.double)
    weight, kept = torch.randn(5, 12, dtype=torch.double), torch.tensor([0, 2, 3, 7, 8, 11])
    meant = torch.linalg.lstsq(x[:, kept], x @ weight.T).solution.T
    assert torch.allclose(compensated(weight, x.T @ x, kept, 1e-12), meant, atol=1e-6)
    # without any data weights stay what they are
    assert torch.allclose(compensated(weight, torch.zeros(12, 12), kept, 0.01), weight[:, kept])


def test_the_fit_brings_logits_nearer():
    before = logits(family("llama"))
    errors = {
        fit: float((before - logits(Width(ffn=0.5, compensate=fit).apply(family("llama"), calibration(24)).model)).norm())
        for fit in (True, False)
    }
    assert errors[True] < errors[False]


@pytest.mark.parametrize(
    ("name", "card", "match"),
    [
        ("phi3", Width(ffn=0.5), "gate_up_proj.weight of phi3 holds several matrices"),
        ("mixtral", Width(ffn=0.5), "experts.gate_up_proj of mixtral holds several matrices or experts"),
        ("qwen2", Width(heads=0.5), "qwen2 has no head_dim: with 2 heads and hidden_size 32"),
        ("gpt2", Width(heads=0.5), "gpt2 has no head_dim"),
        ("cohere", Width(heads=0.5, hidden=0.5), "input_layernorm of cohere takes the mean of all channels away"),
        ("gemma3", Width(hidden=0.5), "gemma3_text computes with its channels in a way that is not known"),
        ("llama", Width(ffn=64), "ffn = 64 of 48"),
        ("llama", Width(heads=0.1), "that leaves 0"),
    ],
)
def test_what_is_not_known_is_refused(name, card, match):
    with pytest.raises(ConfigError, match=match):
        card.apply(family(name), calibration())


def test_a_table_that_says_nothing_is_refused():
    with pytest.raises(ValueError, match="what shall be narrower"):
        Width()
    with pytest.raises(ValueError, match=r"shares up to 1\.0"):
        Width(ffn=1.5)


@pytest.mark.parametrize("name", ["llama", "qwen3"])
def test_plan_counts_what_stays(name):
    card = Width(ffn=0.5, heads=1, hidden=0.75)
    model = family(name)
    planned = card.planned(model.config.to_dict())
    made = card.apply(model, calibration()).model.config.to_dict()
    for field in ("intermediate_size", "num_attention_heads", "num_key_value_heads", "hidden_size", "head_dim"):
        assert planned[field] == made[field]
    with pytest.raises(ConfigError, match="ffn = 64 of 48"):
        Width(ffn=64).planned({"intermediate_size": 48})


def test_weights_of_16_bits_are_cut_like_others():
    model = family("qwen3").to(torch.bfloat16)
    made = Width(ffn=0.5, heads=1, hidden=0.5).apply(model, calibration()).model
    assert {weight.dtype for weight in made.parameters()} == {torch.bfloat16}
    assert bool(logits(made).isfinite().all())
