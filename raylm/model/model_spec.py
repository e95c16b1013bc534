"""Model specs: the matrices, attentions, embeddings and vectors of a network, from its config.json.

No torch: `raylm plan` counts parameters and FLOPs from it, of shapes as of checkpoints that are loaded.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

from raylm.core.errors import ConfigError


class Matrix(NamedTuple):
    """A linear layer."""

    num_in: int
    num_out: int
    stored: float = 1
    """Copies that the network holds: layers, times experts."""
    used: float | None = None
    """Copies that one token passes: of experts those it is sent to; None means all that are stored."""
    bias: bool = False
    tokens: str = "source"
    """Whose tokens pass: of encoder-decoders `source` or `target`."""

    @property
    def passes(self) -> float:
        return self.stored if self.used is None else self.used

    @property
    def weights(self) -> int:
        return self.num_in * self.num_out + (self.num_out if self.bias else 0)


class Attention(NamedTuple):
    """Heads of one kind of attention, layers multiplied in."""

    heads: int
    qk_dim: int
    v_dim: int
    queries: str = "source"
    keys: str = "source"


class ModelSpec(NamedTuple):
    """All of a network."""

    matrices: list[Matrix]
    attentions: list[Attention]
    looked_up: int
    """Weights of embedding tables, of which a token reads single rows; an output head that is tied to one is among them."""
    vectors: int
    """Weights of norms."""

    def num_parameters(self) -> int:
        """Number of weights, shared ones counted once."""
        return round(sum(m.stored * m.weights for m in self.matrices)) + self.looked_up + self.vectors

    def num_active_parameters(self) -> int:
        """Weights that one token meets: of the experts those it is sent to. Equal to `num_parameters` without experts."""
        return round(sum(min(m.stored, m.passes) * m.weights for m in self.matrices)) + self.looked_up + self.vectors


def model_spec(config: dict[str, Any]) -> ModelSpec:
    """What the network of `config` is made of.

    Raises:
        ConfigError: its model_type is not among those known here.
    """
    kind = config.get("model_type")
    if kind not in FAMILIES:
        raise ConfigError(f"the parts of model_type {kind!r} are not known", next=f"known: {', '.join(FAMILIES)}")
    return FAMILIES[kind](config)


def _decoder(config: dict[str, Any], biased: str = "", qk_norm: bool = False) -> ModelSpec:
    """Llama and its kin. `biased`: letters of the attention's matrices that have a bias."""
    c, layers, hidden = config, config["num_hidden_layers"], config["hidden_size"]
    heads = c["num_attention_heads"]
    head_dim = c.get("head_dim") or hidden // heads
    kv = (c.get("num_key_value_heads") or heads) * head_dim
    biased = "qkvo" if c.get("attention_bias") else biased
    matrices = [
        Matrix(hidden, heads * head_dim, layers, bias="q" in biased),
        Matrix(hidden, kv, 2 * layers, bias="k" in biased),
        Matrix(heads * head_dim, hidden, layers, bias="o" in biased),
    ]
    norms = layers * (2 * hidden + (2 * head_dim if qk_norm else 0)) + hidden
    sparse = _sparse_layers(c)
    matrices += _gated(hidden, c["intermediate_size"], layers - sparse, bool(c.get("mlp_bias")))
    if sparse:
        matrices += _experts(c, sparse, _first(c, "num_experts", "num_local_experts"), 0)
    return ModelSpec(
        [*matrices, _head(c, hidden)], [Attention(layers * heads, head_dim, head_dim)], c["vocab_size"] * hidden, norms
    )


def _deepseek_v3(config: dict[str, Any]) -> ModelSpec:
    """Latent attention and experts beside shared ones (https://arxiv.org/abs/2412.19437, section 2.1)."""
    c, layers, hidden, heads = config, config["num_hidden_layers"], config["hidden_size"], config["num_attention_heads"]
    rope, nope, v_dim, kv_rank = (c[k] for k in ("qk_rope_head_dim", "qk_nope_head_dim", "v_head_dim", "kv_lora_rank"))
    q_rank, biased = c.get("q_lora_rank"), bool(c.get("attention_bias"))
    queries = [Matrix(hidden, heads * (nope + rope), layers)]
    if q_rank:
        queries = [Matrix(hidden, q_rank, layers, bias=biased), Matrix(q_rank, heads * (nope + rope), layers)]
    matrices = [
        *queries,
        Matrix(hidden, kv_rank + rope, layers, bias=biased),
        Matrix(kv_rank, heads * (nope + v_dim), layers),
        Matrix(heads * v_dim, hidden, layers, bias=biased),
    ]
    sparse = layers - min(c["first_k_dense_replace"], layers)
    matrices += _gated(hidden, c["intermediate_size"], layers - sparse)
    matrices += _experts(c, sparse, _first(c, "n_routed_experts", "num_local_experts"), c["n_shared_experts"])
    norms = layers * (2 * hidden + kv_rank + (q_rank or 0)) + hidden
    attention = Attention(layers * heads, nope + rope, v_dim)
    return ModelSpec([*matrices, _head(c, hidden)], [attention], c["vocab_size"] * hidden, norms)


def _bert(config: dict[str, Any]) -> ModelSpec:
    c, layers, hidden, vocab = config, config["num_hidden_layers"], config["hidden_size"], config["vocab_size"]
    matrices = [
        Matrix(hidden, hidden, 4 * layers, bias=True),
        Matrix(hidden, c["intermediate_size"], layers, bias=True),
        Matrix(c["intermediate_size"], hidden, layers, bias=True),
        Matrix(hidden, hidden, bias=True),  # transform before the head
        _head(c, hidden),
    ]
    tables = (vocab + c["max_position_embeddings"] + c["type_vocab_size"]) * hidden
    # a layer norm has a weight and a bias; the head keeps its own bias when it is tied
    norms = 2 * hidden * (2 * layers + 2) + vocab
    heads = c["num_attention_heads"]
    return ModelSpec(matrices, [Attention(layers * heads, hidden // heads, hidden // heads)], tables, norms)


def _t5(config: dict[str, Any]) -> ModelSpec:
    c, hidden, heads, head_dim = config, config["d_model"], config["num_heads"], config["d_kv"]
    above, below = c["num_layers"], c.get("num_decoder_layers") or c["num_layers"]
    wide, gated = heads * head_dim, c.get("feed_forward_proj", "relu").startswith("gated")
    matrices = []
    for tokens, layers in (("source", above), ("target", below)):
        matrices += [
            Matrix(hidden, wide, 3 * layers, tokens=tokens),
            Matrix(wide, hidden, layers, tokens=tokens),
            Matrix(hidden, c["d_ff"], (2 if gated else 1) * layers, tokens=tokens),
            Matrix(c["d_ff"], hidden, layers, tokens=tokens),
        ]
    # cross attention: queries and output of the target's tokens, keys and values of the source's
    matrices += [
        Matrix(hidden, wide, below, tokens="target"),
        Matrix(wide, hidden, below, tokens="target"),
        Matrix(hidden, wide, 2 * below, tokens="source"),
        Matrix(hidden, c["vocab_size"], 0, 1, tokens="target"),
    ]
    attentions = [
        Attention(above * heads, head_dim, head_dim),
        Attention(below * heads, head_dim, head_dim, "target", "target"),
        Attention(below * heads, head_dim, head_dim, "target", "source"),
    ]
    tables = c["vocab_size"] * hidden + 2 * c.get("relative_attention_num_buckets", 32) * heads
    return ModelSpec(matrices, attentions, tables, hidden * (2 * above + 1 + 3 * below + 1))


def _gated(hidden: int, wide: int, layers: float, bias: bool = False) -> list[Matrix]:
    return [Matrix(hidden, wide, 2 * layers, bias=bias), Matrix(wide, hidden, layers, bias=bias)]


def _experts(config: dict[str, Any], layers: int, num_experts: int, num_shared: int) -> list[Matrix]:
    hidden, wide, picked = config["hidden_size"], config["moe_intermediate_size"], config["num_experts_per_tok"]
    return [
        Matrix(hidden, num_experts, layers),  # router
        Matrix(hidden, 2 * wide, num_experts * layers, picked * layers),
        Matrix(wide, hidden, num_experts * layers, picked * layers),
        *(_gated(hidden, wide * num_shared, layers) if num_shared else ()),
    ]


def _sparse_layers(config: dict[str, Any]) -> int:
    """Number of layers with experts (Qwen's way of saying it)."""
    if not (config.get("num_experts") or config.get("num_local_experts")):
        return 0
    dense, step = set(config.get("mlp_only_layers") or ()), config.get("decoder_sparse_step", 1)
    return sum(layer not in dense and (layer + 1) % step == 0 for layer in range(config["num_hidden_layers"]))


def _head(config: dict[str, Any], hidden: int) -> Matrix:
    """The output layer; one that is tied to the embedding is stored there."""
    return Matrix(hidden, config["vocab_size"], 0 if config.get("tie_word_embeddings", False) else 1, 1)


def _first(config: dict[str, Any], *names: str) -> int:
    return next(config[name] for name in names if config.get(name) is not None)


FAMILIES: dict[str, Callable[[dict[str, Any]], ModelSpec]] = {
    "llama": _decoder,
    "mistral": _decoder,
    "qwen2": lambda c: _decoder(c, biased="qkv"),
    "qwen3": lambda c: _decoder(c, qk_norm=True),
    "qwen3_moe": lambda c: _decoder(c, qk_norm=True),
    "deepseek_v3": _deepseek_v3,
    "bert": _bert,
    "t5": _t5,
}
