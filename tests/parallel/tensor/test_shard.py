"""Tensor and sequence parallel layouts: each trains as one rank does."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path
from typing import Any

import pytest

from raylm.core.errors import ConfigError
from raylm.model.shapes.llama import Llama
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.parallel.tensor.plans import FAMILIES, plan_of, style_of
from tests.parallel.loops import SHAPE, TOKENS, losses, make_loop
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_parity

HEADS: dict[str, Any] = {**SHAPE, "num_heads": 4, "num_kv_heads": 2}
BOTH = pytest.mark.parametrize("sequence", [False, True], ids=["tensor", "sequence"])
# whole rows under DDP, rows cut by token under FSDP; the other two are long
CROSSED = pytest.mark.parametrize(
    ("strategy", "sequence"),
    [
        (Ddp(), False),
        (Fsdp(), True),
        pytest.param(Ddp(), True, marks=pytest.mark.long),
        pytest.param(Fsdp(), False, marks=pytest.mark.long),
    ],
    ids=["ddp-tensor", "fsdp-sequence", "ddp-sequence", "fsdp-tensor"],
)


@CROSSED
def test_two_tensor_ranks(strategy, sequence):
    assert_parity(2, strategy, mesh={"tensor": 2, "sequence": sequence}, model=HEADS)


@pytest.mark.parametrize(
    ("shape", "sequence"),
    [
        ({"kind": "qwen3"}, True),
        ({"num_kv_heads": 4}, False),
        pytest.param({"kind": "qwen3"}, False, marks=pytest.mark.long),
        pytest.param({"num_kv_heads": 4}, True, marks=pytest.mark.long),
    ],
    ids=["qwen3-sequence", "llama-tensor", "qwen3-tensor", "llama-sequence"],
)
def test_families(shape, sequence):
    shape = {**HEADS, "tie_embeddings": False, **shape}
    # Adam makes whole steps of gradients that are all but zero: a smaller step, a smaller difference
    assert_parity(2, Fsdp(), mesh={"tensor": 2, "sequence": sequence}, model=shape, lr=5e-3)


@CROSSED
def test_tensor_with_data_parallel(strategy, sequence):
    assert_parity(4, strategy, mesh={"tensor": 2, "sequence": sequence}, model=HEADS)


def test_tensor_with_hybrid_sharding():
    assert_parity(8, Fsdp(), mesh={"tensor": 2, "replicas": 2}, model={**HEADS, "tie_embeddings": False})


@BOTH
def test_tensor_with_a_reference(sequence):
    table = {"kind": "Pairs", "objective": {"kind": "dpo"}}
    assert_parity(2, Fsdp(), mesh={"tensor": 2, "sequence": sequence}, model=HEADS, **table)


def test_tensor_with_pairs_that_share_their_prompts():
    table = {"kind": "Pairs", "objective": {"kind": "dpo"}, "padding_free": True}
    assert_parity(2, Fsdp(), mesh={"tensor": 2}, model=HEADS, **table)


@BOTH
def test_tensor_with_adapters(sequence):
    assert_parity(2, Fsdp(), mesh={"tensor": 2, "sequence": sequence}, model=HEADS, adapter={"rank": 2})


def test_four_tensor_ranks_share_more_ranks_than_tokens():
    assert_parity(4, Fsdp(), mesh={"tensor": 4}, model={**HEADS, "num_kv_heads": 4}, micro=1)


@pytest.mark.parametrize(
    ("how", "sequence"),
    [
        ("full", True),
        ("selective", False),
        pytest.param("full", False, marks=pytest.mark.long),
        pytest.param("selective", True, marks=pytest.mark.long),
    ],
)
def test_tensor_with_activation_checkpointing(how, sequence):
    assert_parity(2, Ddp(), mesh={"tensor": 2, "sequence": sequence}, model=HEADS, activation_checkpointing=how)


def goes_on(rank: int, world: int, strategy: Any, work: str, mesh: dict[str, Any], seed: int) -> list[float]:
    """Another seed gives other weights: a run that began anew in place of going on would show."""
    model = Llama(**HEADS).build(TOKENS, seed)
    loop, seen = make_loop(strategy, Path(work), model=model, mesh=mesh, save_every=2)
    loop.run()
    return losses(seen)


def test_a_step_checkpoint_goes_on_under_every_layout(tmp_path):
    """Two ranks of FSDP to step 2, two tensor ranks to step 4, one rank to step 6."""
    expected = goes_on(0, 1, Ddp(), str(tmp_path / "alone"), {}, 0)
    fsdp, tensor, one = (tmp_path / name for name in ("fsdp", "tensor", "one"))
    on_ranks(2, goes_on, Fsdp(), str(fsdp), {}, 0)
    shutil.copytree(fsdp, tensor)
    shutil.rmtree(tensor / "step-00000004")
    found = on_ranks(2, goes_on, Fsdp(), str(tensor), {"tensor": 2}, 1)[0]
    assert found == pytest.approx(expected, abs=1e-6)
    shutil.copytree(tensor, one)
    assert goes_on(0, 1, Ddp(), str(one), {}, 2) == pytest.approx(expected, abs=1e-6)


def test_what_cannot_be_sharded_is_refused_in_words():
    from transformers import GPT2Config, LlamaConfig

    sizes: dict[str, Any] = {"num_attention_heads": 4, "num_key_value_heads": 2, "vocab_size": 64, "intermediate_size": 64}
    with pytest.raises(ConfigError, match="num_key_value_heads = 2"):
        plan_of(LlamaConfig(**sizes), 4)
    with pytest.raises(ConfigError, match="vocab_size = 63"):
        plan_of(LlamaConfig(**{**sizes, "vocab_size": 63}), 2)
    with pytest.raises(ConfigError, match="'gpt2', only for llama"):
        plan_of(GPT2Config(), 2)


def test_names_find_their_style_also_below_adapters():
    plan = FAMILIES["qwen3"]
    at = "base_model.model.model.layers.3.self_attn"
    expected = {
        "model.layers.3": "block",
        "model.layers.3.self_attn": "input",
        "model.layers.3.self_attn.q_proj": "column",
        "model.layers.3.self_attn.q_norm": "summed",
        "model.layers.3.input_layernorm": "tokens",
        "model.norm": "whole",
        "model.rotary_emb": None,
        f"{at}.q_proj.base_layer": "column",
        f"{at}.q_proj.lora_A.default": "summed",
        f"{at}.q_proj.lora_B.default": "column",
        f"{at}.o_proj.lora_A.default": "row",
        f"{at}.o_proj.lora_B.default": "tokens",
        f"{at}.o_proj.lora_A": None,
    }
    assert {name: style_of(name, plan) for name in expected} == expected


def half(rank: int, world: int, strategy: Any, sequence: bool) -> dict[str, Any]:
    mesh = {"tensor": 2, "sequence": sequence} if world > 1 else {}
    dtype = "bfloat16" if world > 1 else "float32"
    with tempfile.TemporaryDirectory() as work:
        loop, seen = make_loop(strategy, Path(work), model=HEADS, mesh=mesh, dtype=dtype, save_every=99)
        loop.run()
    return {"losses": losses(seen), "dtypes": {str(tensor.dtype) for tensor in loop.engine.weights().values()}}


@CROSSED
def test_tensor_in_bfloat16_over_float32_masters(strategy, sequence):
    found = on_ranks(2, half, strategy, sequence)
    assert found[0]["losses"] == found[1]["losses"]
    assert found[0]["dtypes"] == {"torch.float32"}
    exact = half(0, 1, Ddp(), False)["losses"]
    assert found[0]["losses"] == pytest.approx(exact, abs=2e-2)
    assert found[0]["losses"] != exact
