"""Tensor parallel plans: how the modules of each model family are sharded, as module name patterns with styles.

column      rows of the weight (outputs) are sharded: each rank computes its own heads or channels
row         columns of the weight (inputs) are sharded; outputs are summed over ranks
summed      replicated, but each rank computes something else with it: gradients are summed
tokens      replicated; with sequence parallel each rank has its own tokens there: gradients are summed then
whole       replicated, all ranks compute the same with it
embedding   the vocabulary is sharded
head        the vocabulary is sharded, and log-probabilities are normalized over ranks
block       tokens are scattered before the first and gathered after the last of these (sequence parallel)
input       its input is gathered on every rank (column and summed modules are inside; not where experts are)
"""

from __future__ import annotations

from fnmatch import fnmatch
from typing import Any

from raylm.core.errors import ConfigError

ENDS = {"model.embed_tokens": "embedding", "lm_head": "head", "score": "whole", "model.norm": "whole"}
DENSE = {
    **ENDS,
    "model.layers.*.self_attn": "input",
    "model.layers.*.self_attn.[qkv]_proj": "column",
    "model.layers.*.self_attn.[qk]_norm": "summed",
    "model.layers.*.self_attn.o_proj": "row",
    "model.layers.*.mlp": "input",
    "model.layers.*.mlp.gate_proj": "column",
    "model.layers.*.mlp.up_proj": "column",
    "model.layers.*.mlp.down_proj": "row",
    "model.layers.*.*_layernorm": "tokens",
    "model.layers.*": "block",
}
# routers and experts work on single tokens: with sequence parallel each rank sends its own, otherwise all do the same
EXPERTS = {
    "model.layers.*.mlp.gate": "tokens",
    "model.layers.*.mlp.experts": "tokens",
    "model.layers.*.mlp.shared_experts.*_proj": "tokens",
}
# latent vectors are replicated, and projected up for a rank's own heads alone
LATENT = {
    "model.layers.*.self_attn.q_proj": "column",
    "model.layers.*.self_attn.q_a_proj": "summed",
    "model.layers.*.self_attn.kv_a_proj_with_mqa": "summed",
    "model.layers.*.self_attn.*_a_layernorm": "summed",
    "model.layers.*.self_attn.*_b_proj": "column",
}
# by `config.model_type`; the first pattern that fits a name counts
FAMILIES: dict[str, dict[str, str]] = {
    "llama": DENSE,
    "mistral": DENSE,
    "qwen2": DENSE,
    "qwen3": DENSE,
    "qwen3_moe": EXPERTS | DENSE,
    "deepseek_v3": EXPERTS | LATENT | DENSE,
}
# numbers of a config that tensor ranks must divide
DIVIDED = ("num_attention_heads", "num_key_value_heads", "intermediate_size", "vocab_size")


def plan_of(config: Any, ranks: int) -> dict[str, str]:
    """The plan for a model with this transformers config.

    Raises:
        ConfigError: the family is not known, or `ranks` does not divide its heads or its widths.
    """
    kind = config.model_type
    if kind not in FAMILIES:
        raise ConfigError(
            f"no tensor parallel plan for models of type {kind!r}, only for {', '.join(FAMILIES)}",
            next="set mesh.tensor = 1; strategy fsdp shards any model",
        )
    for name in DIVIDED:
        size = getattr(config, name, None)
        if size is not None and size % ranks:
            raise ConfigError(f"mesh.tensor = {ranks} does not divide the model's {name} = {size}", next="lower mesh.tensor")
    return FAMILIES[kind]


def style_of(name: str, plan: dict[str, str]) -> str | None:
    """The style of the module `name` (also below adapters), None when the plan does not name it."""
    plain = name.removeprefix("base_model.model.").replace(".base_layer", "")
    place, adapter, matrix = plain.partition(".lora_")
    depth = place.count(".")
    style = next((style for pattern, style in plan.items() if pattern.count(".") == depth and fnmatch(place, pattern)), None)
    if not adapter:
        return style
    # y = W x + B A x: A of a column is replicated and B is sharded like W; of a row A is sharded like W and B is replicated
    inside = {"column": ("summed", "column"), "row": ("row", "tokens")}
    if style not in inside or not matrix.startswith(("A.", "B.")):
        return None
    return inside[style]["AB".index(matrix[0])]
