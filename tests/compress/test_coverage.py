"""Coverage on tiny models of many families: matrices are rounded, or the model is refused by name and share."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from raylm.compress.config import Compress
from raylm.compress.coverage import layers_to_round
from raylm.compress.stage import compress
from raylm.core.artifact import Tokens
from raylm.core.errors import ConfigError, DataError
from tests.model.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer
from tests.rows import counting_rows, make_rows

INT8 = {"kind": "int8", "activations": "dynamic"}
INT4 = {"kind": "int4", "group_size": 32}
SIZES = {"vocab_size": 300, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 128}
KEYS = {"num_key_value_heads": 2, "head_dim": 32}
LATENT = {"q_lora_rank": 32, "kv_lora_rank": 32, "qk_rope_head_dim": 16, "qk_nope_head_dim": 16, "v_head_dim": 32}


def made(family: str, **fields: Any) -> Any:
    """An untrained model of a family of transformers."""
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    config = AutoConfig.for_model(family, **{**SIZES, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2} | fields)
    return AutoModelForCausalLM.from_config(config).float()


def saved(model: Any, folder: Any) -> str:
    model.save_pretrained(folder)
    tiny_tokenizer(300).save_pretrained(folder)
    return str(folder)


EXPERTS: dict[str, Callable[[], Any]] = {
    "mixtral": lambda: made("mixtral", **KEYS, num_local_experts=4),
    "qwen3_moe": lambda: made("qwen3_moe", **KEYS, num_experts=4, num_experts_per_tok=2, moe_intermediate_size=64),
    "gpt_oss": lambda: made("gpt_oss", **KEYS, num_local_experts=4, num_experts_per_tok=2),
    "olmoe": lambda: made("olmoe", num_experts=4, num_experts_per_tok=2),
    "granitemoe": lambda: made("granitemoe", num_local_experts=4, num_experts_per_tok=2),
    "deepseek_v3": lambda: made(
        "deepseek_v3", **LATENT, n_routed_experts=4, num_experts_per_tok=2, moe_intermediate_size=64,
        first_k_dense_replace=1, n_group=1, topk_group=1, num_key_value_heads=2,
    ),
}  # fmt: skip


@pytest.mark.parametrize("family", EXPERTS)
@pytest.mark.parametrize("method", [INT8, INT4], ids=["int8", "int4"])
def test_experts_in_one_tensor_are_refused_with_their_names_and_share(tmp_path, family, method):
    model = EXPERTS[family]()
    folder = saved(model, tmp_path / "model")
    with pytest.raises(ConfigError, match=r"only linear layers can be rounded; \d+% of the parameters") as caught:
        compress(Compress(stage="compress", model=folder, method=method), folder, None, str(tmp_path / "out"))
    assert "model.layers.*." in str(caught.value)
    named = sum(weight.numel() for name, weight in model.named_parameters() if weight.dim() == 3)
    share = named / sum(weight.numel() for weight in model.parameters())
    assert share > 0.2
    said = int(str(caught.value).split("; ")[1].split("%")[0])
    assert said == pytest.approx(100 * share, abs=2)
    assert not list((tmp_path / "out").rglob("*.safetensors"))


def test_experts_that_are_layers_of_their_own_are_refused_too():
    """transformers and vLLM both hold experts in one tensor, and read rounded ones in different forms."""
    model = tiny_model(vocab=300, layers=1)
    model.model.layers[0].mlp.experts = torch.nn.ModuleList(torch.nn.Linear(64, 64) for _ in range(4))
    with pytest.raises(ConfigError, match=r"model\.layers\.\*\.mlp\.experts\.\*\.weight \("):
        layers_to_round(model)


@pytest.mark.parametrize(
    ("family", "layer"), [("gpt2", r"transformer\.h\.\*\.mlp\.c_fc"), ("falcon", r"transformer\.h\.\*\.mlp\.dense_h_to_4h")]
)
def test_layers_with_a_forward_of_their_own_are_refused(tmp_path, family, layer):
    """GPT-2's Conv1D, Falcon's subclass of Linear."""
    folder = saved(made(family), tmp_path / "model")
    with pytest.raises(ConfigError, match=rf"{layer}\.weight \("):
        compress(Compress(stage="compress", model=folder, method=INT4), folder, None, str(tmp_path / "out"))


FIELDS: dict[str, dict[str, Any]] = {
    "llama": {"num_key_value_heads": 2},
    "phi3": {"num_key_value_heads": 2},
    "gemma2": KEYS,
    "bloom": {"n_layer": 1, "n_head": 2},
    "opt": {"ffn_dim": 128, "word_embed_proj_dim": 64},
}


@pytest.mark.parametrize("family", ["llama", "gpt_neox", "phi3", "gemma2", "bloom", "opt"])
@pytest.mark.parametrize("method", [INT8, INT4], ids=["int8", "int4"])
def test_dense_families_are_rounded_and_load_as_they_were_written(tmp_path, family, method):
    fields = FIELDS.get(family, {})
    model = made(family, **fields)
    folder = saved(model, tmp_path / "model")
    done = compress(Compress(stage="compress", model=folder, method=method), folder, None, str(tmp_path / "out")).facts
    head = model.get_output_embeddings()
    kept = {id(weight) for weight in (model.get_input_embeddings().weight, head.weight)}
    count = sum(weight.numel() for weight in model.parameters())
    matrices = sum(w.numel() for n, w in model.named_parameters() if w.dim() == 2 and id(w) not in kept and "embed" not in n)
    assert done["rounded_share"] == pytest.approx(matrices / count, abs=1e-3)
    ignored = json.loads((tmp_path / "out" / "config.json").read_text())["quantization_config"]["ignore"]
    assert ignored == [name for name, module in model.named_modules() if module is head]
    assert sum(done["left"].values()) == pytest.approx(1 - done["rounded_share"], abs=0.02)
    stored = load_file(tmp_path / "out" / "model.safetensors")
    whole = [tensor for tensor in stored.values() if tensor.is_floating_point()]
    assert {tensor.dtype for tensor in whole} == {torch.float32 if method is INT8 else torch.bfloat16}


def test_a_change_of_dtype_is_not_told_as_compression(tmp_path):
    folder = str(tiny_checkpoint(tmp_path / "model", vocab=300, layers=1))
    done = compress(Compress(stage="compress", model=folder, method=INT4), folder, None, str(tmp_path / "out"))
    assert (done.facts["dtype_before"], done.facts["dtype"]) == ("float32", "bfloat16")
    assert done.metrics["size_ratio"] == pytest.approx(done.metrics["bytes_before"] / 2 / done.metrics["bytes_after"], abs=1e-3)
    # 19,200 of 72,640 parameters are the embedding, which stays in 16 bits; the rest has 4 and a scale for each 32
    assert 1.5 < done.metrics["size_ratio"] < 4


@pytest.mark.parametrize("method", [INT8, INT4], ids=["int8", "int4"])
def test_weights_that_are_not_finite_are_refused(tmp_path, method):
    model = tiny_model(vocab=300, layers=1)
    model.model.layers[0].mlp.down_proj.weight.data[0, 0] = float("nan")
    folder = saved(model, tmp_path / "model")
    with pytest.raises(DataError, match=r"weights of model\.layers\.0\.mlp\.down_proj are not all finite"):
        compress(Compress(stage="compress", model=folder, method=method), folder, None, str(tmp_path / "out"))


def test_calibration_that_measures_nothing_of_this_model_is_refused(tmp_path):
    other = tiny_checkpoint(tmp_path / "other", vocab=400, layers=1)
    broken = tiny_model(vocab=300, layers=1)
    broken.model.layers[0].input_layernorm.weight.data[0] = float("inf")
    for name, rows, held_out in (("rows", counting_rows(4), 0), ("none", counting_rows(4), 4)):
        make_rows(tmp_path, name, Tokens, rows, held_out=held_out)
    own = str(tiny_checkpoint(tmp_path / "own", vocab=300, layers=1))
    for folder, name, said in (
        (str(other), "rows", "calibration rows are of another tokenizer than the model's"),
        (saved(broken, tmp_path / "broken"), "rows", r"activations that enter model\.layers\.0\.self_attn\.q_proj are (inf|nan)"),
        (own, "none", "no rows to calibrate on"),
    ):
        cfg = Compress(stage="compress", model=folder, calibration=str(tmp_path / name))
        with pytest.raises(DataError, match=said):
            compress(cfg, folder, str(tmp_path / name), str(tmp_path / "out"))


def test_four_bit_layers_of_a_width_that_no_kernel_takes_are_refused(tmp_path):
    folder = saved(made("llama", hidden_size=64, intermediate_size=72, num_key_value_heads=2), tmp_path / "model")
    cfg = Compress(stage="compress", model=folder, method={"kind": "int4", "group_size": 8})
    with pytest.raises(ConfigError, match=r"gate_proj is 64 wide and leaves 72; vLLM's 4-bit kernels take multiples of 32"):
        compress(cfg, folder, None, str(tmp_path / "out"))
