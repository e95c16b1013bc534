"""A tiny model with adapters: merging and file format against peft."""

from __future__ import annotations

import json

import pytest
import torch

from raylm.core.errors import ConfigError, TrainingError
from raylm.model.adapters.lora import Lora
from raylm.model.shapes.qwen3_moe import Qwen3Moe
from tests.model.tiny import tiny_model

TOKENS = torch.tensor([[1, 7, 20, 33, 60]])


VARIANTS = [{}, {"modules": ["q_proj", "down_proj"]}, {"use_rslora": True}, {"use_dora": True}]


def adapted(dtype=torch.float32, **table):
    """A peft model whose adapters are no longer zero."""
    model = Lora(rank=3, alpha=8, **table).attach(tiny_model(vocab=70, hidden=32, layers=2).to(dtype), seed=1)
    torch.manual_seed(5)
    for name, weight in model.named_parameters():
        if ".lora_B." in name:
            weight.data.normal_(std=0.05)
        if ".lora_magnitude_vector." in name:
            weight.data *= 1.0 + 0.1 * torch.rand_like(weight)
    return model.eval()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("table", VARIANTS, ids=str)
def test_merging_equals_pefts(table, dtype):
    model = adapted(dtype, **table)
    with torch.no_grad():
        logits = model(TOKENS).logits
    seen = {}
    before = {name: tensor.clone() for name, tensor in model.state_dict().items()}
    merged = dict(Lora(rank=3, alpha=8, **table).merge(model.state_dict().items(), seen))
    assert seen.keys() == {name for name in before if ".lora_" in name}
    assert all(tensor.equal(before[name]) for name, tensor in model.state_dict().items()), "the model itself was changed"
    plain = tiny_model(vocab=70, hidden=32, layers=2).to(dtype)
    changed = [name for name, tensor in plain.state_dict().items() if not torch.equal(merged[name], tensor)]
    assert len(changed) == 2 * (2 if "modules" in table else 7)
    expected = model.merge_and_unload(safe_merge=True).state_dict()
    assert merged.keys() == expected.keys() and all(merged[name].equal(tensor) for name, tensor in expected.items())
    plain.load_state_dict(merged)
    with torch.no_grad():
        atol = 1e-5 if dtype == torch.float32 else 2e-2
        torch.testing.assert_close(plain.eval()(TOKENS).logits, logits, atol=atol, rtol=0)


@pytest.mark.parametrize("table", VARIANTS, ids=str)
def test_the_folder_loads_in_peft_and_gives_the_same_logits(tmp_path, table):
    from peft import PeftModel

    model = adapted(**table)
    adapters = {name: tensor for name, tensor in model.state_dict().items() if ".lora_" in name}
    Lora(rank=3, alpha=8, **table).save(model, adapters, "base", tmp_path)
    loaded = PeftModel.from_pretrained(tiny_model(vocab=70, hidden=32, layers=2), str(tmp_path)).eval()
    with torch.no_grad():
        torch.testing.assert_close(loaded(TOKENS).logits, model(TOKENS).logits, atol=1e-6, rtol=0)
        with loaded.disable_adapter():
            assert not torch.allclose(loaded(TOKENS).logits, model(TOKENS).logits, atol=1e-3)
    kept = json.loads((tmp_path / "adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == "base" and kept["target_modules"] == sorted(kept["target_modules"])


def test_an_adapter_that_is_not_finite_is_not_merged():
    model = adapted()
    model.base_model.model.model.layers[0].mlp.up_proj.lora_A.default.weight.data[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"adapter of model.layers.0.mlp.up_proj is not finite"):
        dict(Lora(rank=3, alpha=8).merge(model.state_dict().items()))


def test_adapters_alone_learn_and_start_without_effect():
    plain = tiny_model(vocab=70, hidden=32, layers=2).eval()
    model = Lora(rank=3).attach(tiny_model(vocab=70, hidden=32, layers=2), seed=1).eval()
    assert {".lora_" in name for name, weight in model.named_parameters() if weight.requires_grad} == {True}
    with torch.no_grad():
        assert torch.equal(model(TOKENS).logits, plain(TOKENS).logits)


def test_equal_seeds_give_equal_adapters():
    first, again, other = (Lora().attach(tiny_model(vocab=70, hidden=32, layers=1), seed).state_dict() for seed in (1, 1, 2))
    names = [name for name in first if ".lora_A." in name]
    assert all(first[name].equal(again[name]) for name in names)
    assert not any(first[name].equal(other[name]) for name in names)


def test_adapters_of_experts_are_refused():
    shape = Qwen3Moe(hidden_size=32, num_layers=1, num_heads=2, num_experts=4, experts_per_token=2, expert_size=8)
    tokens = {"vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
    with pytest.raises(ConfigError, match="cannot stand beside experts"):
        Lora().attach(shape.build(tokens, 0), 0)
    made = Lora(modules=["q_proj"]).attach(shape.build(tokens, 0), 0)
    assert {name.split(".lora_")[0][-6:] for name, weight in made.named_parameters() if weight.requires_grad} == {"q_proj"}


def test_adapters_of_what_is_no_linear_layer_are_refused():
    with pytest.raises(ConfigError, match=r"linear layers alone, not .*embed_tokens \(Embedding\)"):
        Lora(modules=["q_proj", "embed_tokens"]).attach(tiny_model(vocab=70, hidden=32, layers=1), 0)


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["nothing"], r"no layers called nothing.*\n.*linear layers are down_proj, gate_proj"),
        (["q_proj", "c_attn"], "no layers called c_attn"),
        ("nothing.*", r"peft makes no adapters.*\n.*name linear layers in `modules`: down_proj"),
        (["q_proj", "lm_head"], r"beside the output layer \(lm_head\)"),
        (".*(q_proj|lm_head)", r"beside the output layer \(lm_head\)"),
    ],
)
def test_names_that_mean_nothing_or_the_output_layer_are_refused(modules, said):
    with pytest.raises(ConfigError, match=said):
        Lora(modules=modules).attach(tiny_model(vocab=70, hidden=32, layers=1), 0)


def test_a_layer_that_peft_knows_to_be_bypassed_is_refused():
    from transformers import MambaConfig, MambaForCausalLM

    model = MambaForCausalLM(MambaConfig(vocab_size=70, hidden_size=32, num_hidden_layers=1))
    with pytest.raises(ConfigError, match=r"peft makes no adapters of this model: .*out_proj"):
        Lora(modules=["out_proj"]).attach(model, 0)


def test_peft_knows_what_the_model_is_for():
    for kind, task in (("causal", "CAUSAL_LM"), ("seq2seq", "SEQ_2_SEQ_LM"), ("masked", None)):
        assert Lora().peft_config(kind).task_type == task


def test_adapters_of_tied_layers_are_refused():
    model = tiny_model(vocab=70, hidden=32, layers=2)
    model.model.layers[1].mlp.up_proj.weight = model.model.layers[0].mlp.up_proj.weight
    with pytest.raises(ConfigError, match=r"beside tied weights \(.*layers.0.mlp.up_proj.*layers.1.mlp.up_proj"):
        Lora().attach(model, 0)


def test_a_layer_that_does_more_than_multiply_is_refused():
    class Router(torch.nn.Linear):
        def forward(self, input):
            return super().forward(input).softmax(-1), None

    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.model.layers[0].mlp.up_proj = Router(32, 96)
    with pytest.raises(ConfigError, match=r"linear layers alone, not .*up_proj \(Router\)"):
        Lora(modules=["up_proj"]).attach(model, 0)
