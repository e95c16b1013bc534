"""Networks that llama.cpp computes as transformers does: their tensors by both names, and what of a config it has no word for

No torch: `raylm plan` asks for refusals before anything starts.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError


class Piece(NamedTuple):
    """A tensor of the file."""

    name: str
    """In the file."""
    sources: tuple[str, ...]
    """In the checkpoint; several are experts that are stacked."""
    change: str = ""
    """`permute`: rows of each head from halves to pairs; `transpose`; `flat`: without its axes of one."""
    heads: int = 0
    """For `permute`."""


class Architecture(NamedTuple):
    """A family of networks."""

    name: str
    """In the file (general.architecture)."""
    pieces: Callable[[dict[str, Any]], Iterator[Piece]]
    fields: Callable[[dict[str, Any]], dict[str, Any]]
    """Metadata behind `<architecture>.`: whole numbers, floats and texts."""
    check: Callable[[dict[str, Any]], str]
    """What of the config llama.cpp would compute otherwise, "" where nothing."""


def architecture_of(config: dict[str, Any], where: str = "") -> Architecture:
    """The architecture of a config.json.

    Raises:
        ConfigError: llama.cpp has none that computes the same.
    """
    kind = config.get("model_type")
    found = ARCHITECTURES.get(str(kind))
    if found is None:
        raise ConfigError(
            f"model_type {kind!r} cannot be written as GGUF here",
            where=where or None,
            next=f"known: {', '.join(ARCHITECTURES)}; serve this one as it is",
        )
    if why := found.check(config):
        raise ConfigError(f"llama.cpp would compute this {kind} otherwise: {why}", where=where or None, next="serve it as it is")
    return found


def rope_of(config: dict[str, Any]) -> dict[str, Any]:
    """Rotary parameters, as transformers 5 and versions before it wrote them: rope_type, rope_theta and what the type needs."""
    found = dict(config.get("rope_parameters") or config.get("rope_scaling") or {})
    found.setdefault("rope_type", found.pop("type", "default"))
    found.setdefault("rope_theta", config.get("rope_theta", 10_000.0))
    return found


def head_size(config: dict[str, Any]) -> int:
    """Width of one head."""
    return config.get("head_dim") or config["hidden_size"] // config["num_attention_heads"]


def _decoder_fields(c: dict[str, Any]) -> dict[str, Any]:
    rope, size, context = rope_of(c), head_size(c), c["max_position_embeddings"]
    fields = {
        "block_count": c["num_hidden_layers"],
        "context_length": context,
        "embedding_length": c["hidden_size"],
        "feed_forward_length": c["intermediate_size"],
        "attention.head_count": c["num_attention_heads"],
        "attention.head_count_kv": c.get("num_key_value_heads") or c["num_attention_heads"],
        "attention.key_length": size,
        "attention.value_length": size,
        "attention.layer_norm_rms_epsilon": float(c["rms_norm_eps"]),
        "vocab_size": c["vocab_size"],
        "rope.dimension_count": size,
        "rope.freq_base": float(rope["rope_theta"]),
    }
    if rope["rope_type"] in ("linear", "yarn"):
        fields |= {"rope.scaling.type": rope["rope_type"], "rope.scaling.factor": float(rope["factor"])}
    if rope["rope_type"] == "yarn":
        before = rope.get("original_max_position_embeddings") or c.get("original_max_position_embeddings") or context
        fields |= {"rope.scaling.original_context_length": before}
        # YaRN as llama.cpp spells its two borders (https://arxiv.org/abs/2309.00071, section 3.2)
        fields |= {
            f"rope.scaling.yarn_{key}": float(rope[key]) for key in ("beta_fast", "beta_slow") if rope.get(key) is not None
        }
    return fields


def _decoder_check(c: dict[str, Any]) -> str:
    rope = rope_of(c)
    # llama.cpp reads the factors of Llama 3.1 in files of its architecture `llama` alone
    known = ("default", "linear", "yarn", *(("llama3",) if c.get("model_type") in ("llama", "mistral") else ()))
    if rope["rope_type"] not in known:
        return f"rotary positions of type {rope['rope_type']!r}"
    unread = [key for key in ("attention_factor", "mscale", "mscale_all_dim") if rope.get(key) is not None]
    if rope["rope_type"] == "yarn" and (unread or rope.get("truncate") is False):
        return f"YaRN with {', '.join(unread) or 'truncate = false'}"
    if rope.get("partial_rotary_factor", c.get("partial_rotary_factor", 1.0)) != 1.0:
        return "rotary positions of a part of each head"
    if c.get("hidden_act", "silu") != "silu":
        return f"feed-forward layers with {c['hidden_act']}"
    layers = set(c.get("layer_types") or ()) - {"full_attention"}
    window = c.get("sliding_window") if c.get("use_sliding_window", True) else None
    if layers or (window and window < c["max_position_embeddings"]):
        return f"attention within a window ({window or ', '.join(sorted(layers))})"
    return ""


def _decoder_pieces(
    c: dict[str, Any], permuted: bool, biased: str = "", qk_norm: bool = False, experts: bool = False, own_head: bool = False
) -> Iterator[Piece]:
    """`biased`: letters of the attention's matrices that have a bias; `own_head`: llama.cpp ties no head of this family."""
    heads, kv_heads = c["num_attention_heads"], c.get("num_key_value_heads") or c["num_attention_heads"]
    yield Piece("token_embd.weight", ("model.embed_tokens.weight",))
    yield Piece("output_norm.weight", ("model.norm.weight",))
    if not c.get("tie_word_embeddings", False):
        yield Piece("output.weight", ("lm_head.weight",))
    elif own_head:
        yield Piece("output.weight", ("model.embed_tokens.weight",))
    for n in range(c["num_hidden_layers"]):
        block, layer = f"blk.{n}", f"model.layers.{n}"
        yield Piece(f"{block}.attn_norm.weight", (f"{layer}.input_layernorm.weight",))
        yield Piece(f"{block}.ffn_norm.weight", (f"{layer}.post_attention_layernorm.weight",))
        for letter, count in (("q", heads), ("k", kv_heads), ("v", 0), ("o", 0)):
            ours = f"{block}.attn_{'output' if letter == 'o' else letter}"
            change = "permute" if permuted and count else ""
            yield Piece(f"{ours}.weight", (f"{layer}.self_attn.{letter}_proj.weight",), change, count)
            if letter in biased:
                yield Piece(f"{ours}.bias", (f"{layer}.self_attn.{letter}_proj.bias",), change, count)
        for letter in "qk" if qk_norm else "":
            yield Piece(f"{block}.attn_{letter}_norm.weight", (f"{layer}.self_attn.{letter}_norm.weight",))
        if experts:
            yield from _expert_pieces(c, block, f"{layer}.mlp")
            continue
        for part in ("gate", "up", "down"):
            yield Piece(f"{block}.ffn_{part}.weight", (f"{layer}.mlp.{part}_proj.weight",))
            if c.get("mlp_bias"):
                yield Piece(f"{block}.ffn_{part}.bias", (f"{layer}.mlp.{part}_proj.bias",))


def _expert_pieces(c: dict[str, Any], block: str, mlp: str) -> Iterator[Piece]:
    yield Piece(f"{block}.ffn_gate_inp.weight", (f"{mlp}.gate.weight",))
    for part in ("gate", "up", "down"):
        sources = tuple(f"{mlp}.experts.{expert}.{part}_proj.weight" for expert in range(_num_experts(c)))
        yield Piece(f"{block}.ffn_{part}_exps.weight", sources)
    if c.get("shared_expert_intermediate_size"):
        yield Piece(f"{block}.ffn_gate_inp_shexp.weight", (f"{mlp}.shared_expert_gate.weight",), "flat")
        for part in ("gate", "up", "down"):
            yield Piece(f"{block}.ffn_{part}_shexp.weight", (f"{mlp}.shared_expert.{part}_proj.weight",))


def _num_experts(c: dict[str, Any]) -> int:
    return c.get("num_experts") or c["num_local_experts"]


def _expert_fields(c: dict[str, Any]) -> dict[str, Any]:
    fields = {
        **_decoder_fields(c),
        "expert_count": _num_experts(c),
        "expert_used_count": c["num_experts_per_tok"],
        "expert_feed_forward_length": c["moe_intermediate_size"],
    }
    if shared := c.get("shared_expert_intermediate_size"):
        fields["expert_shared_feed_forward_length"] = shared
    return fields


def _expert_check(c: dict[str, Any], norm: bool) -> str:
    if c.get("mlp_only_layers") or c.get("decoder_sparse_step", 1) != 1:
        return "layers without experts among those with experts"
    if bool(c.get("norm_topk_prob")) != norm:
        return f"norm_topk_prob = {c.get('norm_topk_prob')}"
    return _decoder_check(c)


def _no_bias(c: dict[str, Any]) -> str:
    return "biases in attention" if c.get("attention_bias") else _decoder_check(c)


def _gpt2_pieces(c: dict[str, Any]) -> Iterator[Piece]:
    def both(ours: str, theirs: str, change: str = "") -> Iterator[Piece]:
        yield Piece(f"{ours}.weight", (f"{theirs}.weight",), change)
        yield Piece(f"{ours}.bias", (f"{theirs}.bias",))

    yield Piece("token_embd.weight", ("transformer.wte.weight",))
    yield Piece("position_embd.weight", ("transformer.wpe.weight",))
    yield from both("output_norm", "transformer.ln_f")
    if not c.get("tie_word_embeddings", True):
        yield Piece("output.weight", ("lm_head.weight",))
    for n in range(c["n_layer"]):
        block, layer = f"blk.{n}", f"transformer.h.{n}"
        yield from both(f"{block}.attn_norm", f"{layer}.ln_1")
        yield from both(f"{block}.ffn_norm", f"{layer}.ln_2")
        # Conv1D holds its matrix the other way round
        yield from both(f"{block}.attn_qkv", f"{layer}.attn.c_attn", "transpose")
        yield from both(f"{block}.attn_output", f"{layer}.attn.c_proj", "transpose")
        yield from both(f"{block}.ffn_up", f"{layer}.mlp.c_fc", "transpose")
        yield from both(f"{block}.ffn_down", f"{layer}.mlp.c_proj", "transpose")


def _gpt2_fields(c: dict[str, Any]) -> dict[str, Any]:
    return {
        "block_count": c["n_layer"],
        "context_length": c["n_positions"],
        "embedding_length": c["n_embd"],
        "feed_forward_length": c.get("n_inner") or 4 * c["n_embd"],
        "attention.head_count": c["n_head"],
        "attention.layer_norm_epsilon": float(c["layer_norm_epsilon"]),
        "vocab_size": c["vocab_size"],
    }


def _gpt2_check(c: dict[str, Any]) -> str:
    if c.get("activation_function", "gelu_new") not in ("gelu_new", "gelu_pytorch_tanh"):
        return f"feed-forward layers with {c['activation_function']}"
    if c.get("scale_attn_by_inverse_layer_idx") or not c.get("scale_attn_weights", True) or c.get("add_cross_attention"):
        return "attention that is scaled by layer or not at all, or cross attention"
    return ""


ARCHITECTURES: dict[str, Architecture] = {
    "llama": Architecture(
        "llama", lambda c: _decoder_pieces(c, True, "qkvo" if c.get("attention_bias") else ""), _decoder_fields, _decoder_check
    ),
    "mistral": Architecture("llama", lambda c: _decoder_pieces(c, True), _decoder_fields, _decoder_check),
    "qwen2": Architecture("qwen2", lambda c: _decoder_pieces(c, False, "qkv"), _decoder_fields, _decoder_check),
    "qwen2_moe": Architecture(
        "qwen2moe",
        lambda c: _decoder_pieces(c, False, "qkv" if c.get("qkv_bias", True) else "", experts=True, own_head=True),
        _expert_fields,
        lambda c: _expert_check(c, False),
    ),
    "qwen3": Architecture("qwen3", lambda c: _decoder_pieces(c, False, qk_norm=True), _decoder_fields, _no_bias),
    "qwen3_moe": Architecture(
        "qwen3moe",
        lambda c: _decoder_pieces(c, False, qk_norm=True, experts=True),
        _expert_fields,
        lambda c: "biases in attention" if c.get("attention_bias") else _expert_check(c, True),
    ),
    "gpt2": Architecture("gpt2", _gpt2_pieces, _gpt2_fields, _gpt2_check),
}
