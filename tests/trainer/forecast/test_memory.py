"""The forecast of memory: activations as autograd keeps them, and what a process really grows by, within a tenth."""

from __future__ import annotations

import pytest

from tests.parallel.on_ranks import on_ranks
from tests.trainer.forecast.grown import measured

DDP = {"strategy": {"kind": "ddp"}}
LAYOUTS = {
    "one rank": (1, DDP, 4),
    "two ranks": (2, DDP, 2),
    "sharded": (2, {}, 4),
    "sharded, weights stay": (2, {"strategy": {"kind": "fsdp", "reshard": False}}, 2),
    "activation_checkpointing full": (1, {**DDP, "activation_checkpointing": "full"}, 8),
    "activation_checkpointing selective": (1, {**DDP, "activation_checkpointing": "selective"}, 8),
    "adapter": (1, {**DDP, "adapter": {"kind": "lora", "rank": 8}}, 4),
    "4-bit base": (1, {**DDP, "adapter": {"kind": "qlora", "rank": 8}}, 4),
    "4-bit base, sharded": (2, {"adapter": {"kind": "qlora", "rank": 8}}, 2),
    "adafactor": (1, {**DDP, "optimizer": {"kind": "adafactor"}}, 2),
    "8-bit moments": (1, {**DDP, "optimizer": {"kind": "adamw", "bits": 8}}, 4),
}


# one rank that computes nothing again is the case of the model from disk
SHORT = ("sharded", "activation_checkpointing full")


@pytest.mark.parametrize("name", [n if n in SHORT else pytest.param(n, marks=pytest.mark.long) for n in LAYOUTS])
def test_a_rank_grows_by_what_was_forecast(name):
    """35 M parameters: 140 MB of weights, twice that of moments."""
    for grown, forecast in on_ranks(LAYOUTS[name][0], measured, *LAYOUTS[name][1:], timeout_s=300):
        assert forecast == pytest.approx(grown, rel=0.1), f"{grown / 1e6:.0f} MB, forecast {forecast / 1e6:.0f} MB"


LARGE = {
    "hidden_size": 384, "intermediate_size": 1024, "num_hidden_layers": 6, "num_attention_heads": 6, "num_key_value_heads": 2,
    "max_position_embeddings": 512, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "vocab_size": 49152,
}  # fmt: skip
FROM_DISK = {
    "adapter": ({"adapter": {"kind": "lora", "rank": 16}}, True, "float32", 4),
    "adapter, stored in 16 bits, a short batch": ({"adapter": {"kind": "lora", "rank": 16}}, False, "bfloat16", 1),
    "4-bit base": ({"adapter": {"kind": "qlora", "rank": 16}}, True, "float32", 4),
    "4-bit base, stored in 16 bits": ({"adapter": {"kind": "qlora", "rank": 16}}, False, "bfloat16", 1),
    "tied": ({}, True, "float32", 4),
    "untied": ({}, False, "bfloat16", 4),
}


@pytest.mark.parametrize("name", [n if n == "4-bit base" else pytest.param(n, marks=pytest.mark.long) for n in FROM_DISK])
def test_a_model_of_large_vocabulary_from_disk_grows_by_what_was_forecast(name, tmp_path):
    """10 M weights in blocks, twice that for each table of 49 thousand words."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    keys, tied, dtype, rows = FROM_DISK[name]
    model = LlamaForCausalLM(LlamaConfig(**LARGE, tie_word_embeddings=tied)).to(getattr(torch, dtype))
    model.save_pretrained(tmp_path)
    ((grown, forecast),) = on_ranks(1, measured, {**DDP, **keys}, rows, str(tmp_path), timeout_s=300)
    assert forecast == pytest.approx(grown, rel=0.1), f"{grown / 1e6:.0f} MB, forecast {forecast / 1e6:.0f} MB"


@pytest.mark.parametrize("kind", ["llama", "qwen3"])
@pytest.mark.parametrize("shape", [(64, 4, 1, 96), (128, 4, 4, 512), (96, 6, 2, 256)])
def test_a_block_keeps_what_was_counted(kind, shape):
    """Bytes that autograd keeps, of two blocks over one."""
    import torch

    from raylm.model.attention import install
    from raylm.parallel.mesh import Mesh
    from raylm.train.config import Train
    from raylm.train.micro import _Kept
    from raylm.trainer.forecast.activations import bytes_per_token

    hidden, heads, kv, wide = shape
    kept = {}
    for layers in (1, 2):
        table = {
            "kind": kind, "hidden_size": hidden, "num_layers": layers, "num_heads": heads, "num_kv_heads": kv,
            "intermediate_size": wide,
        }  # fmt: skip
        card = Train(stage="train", rows="r", model=table, batch=1, steps=1).model
        model = card.build({"vocab_size": 50, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}, 0)
        install(model)
        for length in (20, 40):
            with _Kept() as found:
                model.model(input_ids=torch.arange(length)[None], use_cache=False)
            kept[layers, length] = found.num_bytes
    # what weights count is the same at both lengths
    block = (kept[2, 40] - kept[1, 40]) - (kept[2, 20] - kept[1, 20])
    forecast = bytes_per_token(card.config({"vocab_size": 50}), Mesh(), narrow=False) * 20
    # norms of queries and keys of qwen3 are not counted apart
    assert block == pytest.approx(forecast, rel=0.1 if kind == "llama" else 0.35)
