"""A tiny model with adapters: merging and file format against peft."""

from __future__ import annotations

import contextlib
import copy
import json

import pytest
import torch
import transformers

from raylm.core.errors import ConfigError, TrainingError
from raylm.model.adapters.lora import Lora
from raylm.model.adapters.merging import is_part
from raylm.model.head import LOGPROBS
from raylm.model.scores import Inputs, answer
from raylm.model.shapes.qwen3_moe import Qwen3Moe
from tests.model.tiny import tiny_model

TOKENS = torch.tensor([[1, 7, 20, 33, 60]])


VARIANTS: dict[str, dict] = {
    "lora": {},
    "names": {"modules": ["q_proj", "down_proj"]},
    "regex": {"modules": r".*layers\.1.*\.(q|v)_proj"},
    "rslora": {"use_rslora": True},
    "dora": {"use_dora": True},
    "pissa": {"init_lora_weights": "pissa"},
    "olora": {"init_lora_weights": "olora"},
    "pissa rslora": {"init_lora_weights": "pissa_niter_4", "use_rslora": True},
    "one block": {"layers_to_transform": [1], "exclude_modules": ["k_proj"]},
    "patterns": {"rank_pattern": {"q_proj": 5}, "alpha_pattern": {"q_proj": 4}},
    "embedding and head": {"modules": ["embed_tokens", "lm_head", "q_proj"]},
    "dora on the head": {"modules": ["lm_head", "q_proj"], "use_dora": True},
    "whole head": {"modules": ["q_proj"], "modules_to_save": ["lm_head", "norm"]},
    "tied whole": {"modules": ["q_proj"], "modules_to_save": ["embed_tokens"]},
    "rows": {"modules": ["q_proj"], "trainable_token_indices": [20, 33]},
    "tied rows": {"modules": ["q_proj"], "trainable_token_indices": [20, 33]},
    "conv1d": {"modules": ["c_attn", "c_proj"]},
    "conv1d dora": {"use_dora": True},
    "experts": {},
    "expert tensors": {"modules": ["q_proj"], "target_parameters": ["experts.gate_up_proj", "experts.down_proj"]},
    "encoder": {},
    "t5": {},
}


def base(name: str, dtype: torch.dtype = torch.float32):
    """A small model that a variant is of."""
    torch.manual_seed(0)
    if "expert" in name:
        shape = Qwen3Moe(hidden_size=32, num_layers=2, num_heads=2, num_experts=4, experts_per_token=2, expert_size=8)
        return shape.build({"vocab_size": 70, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}, 0).to(dtype)
    if "conv1d" in name:
        config = transformers.GPT2Config(vocab_size=70, n_embd=32, n_layer=2, n_head=2, n_positions=64)
        # square matrices of both ways of storing them
        return transformers.GPT2LMHeadModel(config).to(dtype)
    if name == "encoder":
        small = {"num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 48}
        return transformers.BertForMaskedLM(transformers.BertConfig(vocab_size=70, hidden_size=32, **small)).to(dtype)
    if name == "t5":
        config = transformers.T5Config(vocab_size=70, d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2)
        return transformers.T5ForConditionalGeneration(config).to(dtype)
    model = tiny_model(vocab=70, hidden=32, layers=2)
    if "tied" not in name and VARIANTS.get(name, {}).keys() & {"trainable_token_indices", "modules_to_save", "modules"}:
        model.config.tie_word_embeddings = False
        model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach() + 0.1 * torch.randn(70, 32))
    return model.to(dtype)


def feed(model) -> dict:
    return {"input_ids": TOKENS} | ({"decoder_input_ids": TOKENS} if model.config.is_encoder_decoder else {})


@torch.no_grad()
def logits_of(model) -> torch.Tensor:
    return model(**feed(model)).logits.float()


def adapted(name: str = "lora", dtype=torch.float32):
    """A peft model whose adapters are no longer as they began."""
    model = Lora(rank=3, alpha=8, **VARIANTS[name]).attach(base(name, dtype), seed=1)
    torch.manual_seed(5)
    for weight in model.parameters():
        if weight.requires_grad:
            weight.data += 0.05 * torch.randn_like(weight)
    return model.eval()


@pytest.mark.parametrize("name", VARIANTS)
def test_merging_equals_pefts_and_what_was_trained(name):
    model, card = adapted(name), Lora(rank=3, alpha=8, **VARIANTS[name])
    logits, seen = logits_of(model), {}
    before = {key: tensor.clone() for key, tensor in model.state_dict().items()}
    merged = dict(card.merge(model, model.state_dict().items(), seen))
    assert seen.keys() == {key for key in before if is_part(key)}
    assert all(tensor.equal(before[key]) for key, tensor in model.state_dict().items()), "the model itself was changed"
    assert all(p.dtype == torch.float32 for p in model.parameters())
    plain = base(name).eval()
    assert merged.keys() == plain.state_dict().keys()
    changed = [key for key, tensor in plain.state_dict().items() if not torch.equal(merged[key], tensor)]
    plain.load_state_dict(merged)
    torch.testing.assert_close(logits_of(plain), logits, atol=1e-5, rtol=0)
    assert not torch.allclose(logits_of(base(name).eval()), logits, atol=1e-3)
    expected = model.merge_and_unload(safe_merge=True).state_dict()
    assert merged.keys() == expected.keys() and all(merged[key].equal(tensor) for key, tensor in expected.items())
    if name in ("lora", "names"):
        assert len(changed) == 2 * (2 if name == "names" else 7)


@pytest.mark.parametrize("name", ["lora", "dora", "pissa", "whole head", "tied rows", "experts", "conv1d"])
def test_in_bfloat16_a_merge_is_rounded_once(name):
    model, card = adapted(name, torch.bfloat16), Lora(rank=3, alpha=8, **VARIANTS[name])
    assert all(p.dtype == torch.float32 for p in model.parameters() if p.requires_grad), "trained in float32"
    merged = dict(card.merge(model, model.state_dict().items()))
    assert {tensor.dtype for tensor in merged.values()} == {torch.bfloat16}
    exact = copy.deepcopy(model).float().merge_and_unload(safe_merge=True).state_dict()
    assert all(merged[key].equal(tensor.bfloat16()) for key, tensor in exact.items())


@pytest.mark.parametrize("name", VARIANTS)
def test_the_folder_loads_in_peft_beside_the_unchanged_base_and_gives_the_same_logits(tmp_path, name):
    from peft import PeftModel

    model = adapted(name)
    adapters = {key: tensor for key, tensor in model.state_dict().items() if is_part(key)}
    Lora(rank=3, alpha=8, **VARIANTS[name]).save(model, adapters, "base", tmp_path)
    loaded = PeftModel.from_pretrained(base(name), str(tmp_path)).eval()
    torch.testing.assert_close(logits_of(loaded), logits_of(model), atol=1e-5, rtol=0)
    with loaded.disable_adapter():
        torch.testing.assert_close(logits_of(loaded), logits_of(base(name).eval()), atol=1e-6, rtol=0)
    kept = json.loads((tmp_path / "adapter_config.json").read_text())
    assert kept["base_model_name_or_path"] == "base"
    assert isinstance(kept["target_modules"], str) or kept["target_modules"] == sorted(kept["target_modules"])


@pytest.mark.parametrize(
    "name", ["embedding and head", "dora on the head", "whole head", "tied whole", "rows", "tied rows", "lora"]
)
@pytest.mark.parametrize("on", [True, False], ids=["on", "off"])
def test_an_adapted_head_answers_as_its_logits_say(name, on):
    model = adapted(name)
    inputs = Inputs({"input_ids": TOKENS}, TOKENS, torch.ones_like(TOKENS, dtype=torch.float32))
    with contextlib.nullcontext() if on else model.disable_adapter():
        expected = model(TOKENS).logits.log_softmax(-1).gather(-1, TOKENS[..., None])[..., 0]
        for backend in ("plain", "chunked"):
            found = answer(model, inputs, LOGPROBS, backend)[..., 0]
            torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    if on:
        trained = [p for p in model.parameters() if p.requires_grad]
        wanted = torch.autograd.grad(expected.sum(), trained, retain_graph=True)
        made = torch.autograd.grad(found.sum(), trained)
        for left, right in zip(made, wanted, strict=True):
            torch.testing.assert_close(left, right, atol=1e-4, rtol=1e-4)


def test_tied_ends_stay_tied():
    for name in ("tied whole", "tied rows"):
        merged = dict(Lora(rank=3, alpha=8, **VARIANTS[name]).merge(model := adapted(name), model.state_dict().items()))
        assert merged["lm_head.weight"].equal(merged["model.embed_tokens.weight"])
    # naming the output layer means the matrix that it shares
    made = Lora(modules=["q_proj"], modules_to_save=["lm_head"]).attach(tiny_model(vocab=70, hidden=32, layers=1), 0)
    assert made.get_output_embeddings().weight is made.get_input_embeddings().weight
    assert made.get_output_embeddings().weight.requires_grad


def test_two_adapters_on_one_base_load_together_in_peft(tmp_path):
    from peft import PeftModel

    wanted = {}
    for name in ("lora", "rslora"):
        model = adapted(name)
        wanted[name] = logits_of(model)
        parts = {key: tensor for key, tensor in model.state_dict().items() if is_part(key)}
        Lora(rank=3, alpha=8, **VARIANTS[name]).save(model, parts, "base", tmp_path / name)
    both = PeftModel.from_pretrained(base("lora"), str(tmp_path / "lora"), adapter_name="lora").eval()
    both.load_adapter(str(tmp_path / "rslora"), adapter_name="rslora")
    for name, logits in wanted.items():
        both.set_adapter(name)
        torch.testing.assert_close(logits_of(both), logits, atol=1e-5, rtol=0)
    assert not torch.allclose(*wanted.values(), atol=1e-3)


def test_an_adapter_that_is_not_finite_is_not_merged():
    model = adapted()
    model.base_model.model.model.layers[0].mlp.up_proj.lora_A.default.weight.data[0, 0] = torch.nan
    with pytest.raises(TrainingError, match=r"adapter of model.layers.0.mlp.up_proj is not finite"):
        dict(Lora(rank=3, alpha=8).merge(model, model.state_dict().items()))


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


@pytest.mark.parametrize(
    ("modules", "said"),
    [
        (["nothing"], r"no layers called nothing.*\n.*linear layers are down_proj, gate_proj"),
        (["q_proj", "c_attn"], "no layers called c_attn"),
        ("nothing.*", r"peft makes no adapters.*\n.*name linear layers in `modules`: down_proj"),
        (["q_porj"], r"no layers called q_porj\n.*Did you mean 'q_proj'"),
        (["q_proj", "lm_head"], r"beside tied weights \(.*embed_tokens.*lm_head.*\n.*modules_to_save = "),
        (".*(q_proj|lm_head)", r"beside tied weights \(.*embed_tokens.*lm_head"),
        (["q_proj", "embed_tokens"], r"beside tied weights \(.*embed_tokens"),
    ],
)
def test_names_that_mean_nothing_or_a_tied_matrix_are_refused(modules, said):
    with pytest.raises(ConfigError, match=said):
        Lora(modules=modules).attach(tiny_model(vocab=70, hidden=32, layers=1), 0)


@pytest.mark.parametrize(
    ("name", "card"),
    [
        ("embedding and head", {"modules": ["q_proj", "embed_tokens"], "init_lora_weights": "pissa"}),
        ("conv1d", {"init_lora_weights": "olora"}),
        ("expert tensors", {"target_parameters": ["experts.down_proj"], "init_lora_weights": "pissa"}),
    ],
)
def test_what_begins_with_a_part_of_the_base_stands_beside_linear_layers_alone(name, card):
    with pytest.raises(ConfigError, match=r"takes a part out of linear layers alone, not of .*(embed_tokens|c_attn|experts)"):
        Lora(**card).attach(base(name), 0)


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
    with pytest.raises(ConfigError, match=r"linear layers and embeddings alone, not .*up_proj \(Router\)"):
        Lora(modules=["up_proj"]).attach(model, 0)
