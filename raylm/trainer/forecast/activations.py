"""Forecast of activation memory per rank, from a model's config.json and the layout. No torch.

Counted from what autograd keeps of transformers' blocks under fused attention, per token of a dense block:

    norms      x, x normed, its output: three times hidden, twice a block; in bfloat16 compute x is kept in float32
    attention  queries, keys, values, output (the scores are never kept)
    mlp        gate, silu(gate), up, their product
"""

from __future__ import annotations

from typing import Any


def bytes_per_token(config: dict[str, Any], mesh: Any, *, narrow: bool, activation_checkpointing: str = "none") -> float:
    """Bytes that one block keeps of one token on one rank.

    Args:
        narrow: compute is in bfloat16.
        activation_checkpointing: none, selective or full.
    """
    size, hidden = (2 if narrow else 4), config["hidden_size"]
    stream = hidden / (mesh.tensor if mesh.sequence else 1)
    if activation_checkpointing == "full":
        return size * stream
    inner = _attended(config) + _fed(config)
    if activation_checkpointing == "selective":
        # what products return: of the mlp gate and up, not what is made of them
        return size * (stream + (_attended(config) + _fed(config) / 2 + 2 * stream) / mesh.tensor)
    return 2 * stream * ((4 + 2 * size) if narrow else 3 * size) + size * inner / mesh.tensor


def in_flight(mesh: Any, num_micros: int) -> float:
    """Micro batches whose activations the fullest rank of a pipeline holds at once, in units of all its blocks."""
    ranks = mesh.pipeline
    if ranks == 1:
        return 1.0
    # https://arxiv.org/abs/2104.04473 section 2.2: interleaving starts later stages sooner and holds more
    more = 1 + (ranks - 1) / (ranks * 2) if mesh.schedule == "interleaved" else 1.0
    return min(ranks, num_micros) * more


def _attended(config: dict[str, Any]) -> float:
    heads = config["num_attention_heads"]
    if "kv_lora_rank" in config:
        nope, rope, v_dim = config["qk_nope_head_dim"], config["qk_rope_head_dim"], config["v_head_dim"]
        # latents, expanded keys and values, queries and output
        return heads * (2 * (nope + rope) + 2 * v_dim + nope) + 3 * (config["kv_lora_rank"] + (config.get("q_lora_rank") or 0))
    head_dim = config.get("head_dim") or config["hidden_size"] // heads
    kv = config.get("num_key_value_heads") or heads
    return (2 * heads + 2 * kv) * head_dim


def _fed(config: dict[str, Any]) -> float:
    picked = config.get("num_experts_per_tok")
    if not picked:
        return 4 * config["intermediate_size"]
    hidden, wide = config["hidden_size"], config["moe_intermediate_size"]
    shared = config.get("n_shared_experts") or 0
    # each expert copies the tokens it is sent and weighs what it returns
    return picked * (4 * wide + 3 * hidden) + 4 * wide * shared
