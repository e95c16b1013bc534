"""The shape of a model as Megatron needs it, and Megatron's arguments, from a transformers config."""

from __future__ import annotations

import argparse
from typing import Any, Literal, NamedTuple

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import ConfigError

FAMILIES = ("llama", "qwen2", "qwen3", "qwen3_moe")
# the constants of Llama 3.1 that Megatron has built in behind --use-rope-scaling
LLAMA3 = {"low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}


class Shape(NamedTuple):
    """What names and cuts depend on."""

    layers: int
    heads: int
    groups: int
    """Query groups: heads of keys and values."""
    vocab: int
    tied: bool
    qkv_bias: bool
    qk_norm: bool
    experts: int
    sparse: tuple[bool, ...]
    """For each block, whether it has experts."""
    widths: tuple[int, ...]
    """Inner widths of feed-forward layers: of dense blocks, of experts."""


class Layout(Config):
    """How the checkpoint is sharded."""

    tensor: int = Field(default=1, gt=0)
    """Number of tensor-parallel ranks."""
    pipeline: int = Field(default=1, gt=0)
    """Number of pipeline ranks."""
    virtual: int = Field(default=1, gt=0)
    """Number of model chunks on each pipeline rank."""
    expert: int = Field(default=1, gt=0)
    """Number of expert-parallel ranks."""
    divisible: int = Field(default=128, gt=0)
    """The vocabulary is padded to a multiple of this times `tensor` (--make-vocab-size-divisible-by)."""
    spec: Literal["te", "local"] = "te"
    """`te`: names of Transformer Engine's fused layers (--transformer-impl transformer_engine); `local`: those without."""

    def padded(self, vocab: int) -> int:
        """Rows of the padded vocabulary."""
        step = self.divisible * self.tensor
        return -(-vocab // step) * step


def shape_of(config: Any) -> Shape:
    """The shape of a causal model. Raises ConfigError where Megatron's GPTModel would compute something else."""
    family = config.model_type
    if family not in FAMILIES:
        raise ConfigError(f"no mapping of {family} to Megatron's GPTModel", next=f"it is known for {', '.join(FAMILIES)}")
    if (family != "qwen2" and getattr(config, "attention_bias", False)) or getattr(config, "mlp_bias", False):
        raise ConfigError("biases of single linear layers have no place in Megatron's layout", where=f"model_type {family}")
    if getattr(config, "use_sliding_window", False):
        raise ConfigError("sliding-window attention is not mapped", where=f"model_type {family}")
    rope = config.rope_parameters or {}
    kind = rope.get("rope_type", "default")
    if kind != "default" and not (kind == "llama3" and all(rope.get(key) == value for key, value in LLAMA3.items())):
        raise ConfigError(f"rotary positions scaled by {kind} ({rope}) are not mapped", where=f"model_type {family}")
    layers, experts = config.num_hidden_layers, getattr(config, "num_experts", 0) if family == "qwen3_moe" else 0
    dense = set(getattr(config, "mlp_only_layers", None) or ())
    step = getattr(config, "decoder_sparse_step", 1)
    sparse = tuple(bool(experts) and at not in dense and (at + 1) % step == 0 for at in range(layers))
    widths = [config.intermediate_size] if not all(sparse) else []
    return Shape(
        layers=layers,
        heads=config.num_attention_heads,
        groups=config.num_key_value_heads,
        vocab=config.vocab_size,
        tied=config.tie_word_embeddings,
        qkv_bias=family == "qwen2",
        qk_norm=family in ("qwen3", "qwen3_moe"),
        experts=experts,
        sparse=sparse,
        widths=(*widths, *([config.moe_intermediate_size] if any(sparse) else [])),
    )


def check(shape: Shape, layout: Layout) -> None:
    """Raises ConfigError where the model cannot be cut so."""
    cut = [
        (shape.groups, layout.tensor, "query groups", "--tensor"),
        *((width, layout.tensor, "inner width of a feed-forward layer", "--tensor") for width in shape.widths),
        (shape.layers, layout.pipeline * layout.virtual, "blocks", "--pipeline times --virtual"),
        (shape.experts or 1, layout.expert, "experts", "--expert"),
    ]
    for size, parts, what, flag in cut:
        if size % parts:
            raise ConfigError(f"{what}: {size} cannot be divided by {parts}", where=flag)
    if layout.virtual > 1 and layout.pipeline == 1:
        raise ConfigError("virtual stages need several pipeline ranks", where="--virtual", next="add --pipeline")


def arguments(config: Any, shape: Shape, layout: Layout, dtype: Any) -> argparse.Namespace:
    """What `--use-checkpoint-args` reads (megatron/training/checkpointing.py), and what tells how the files are cut."""
    import torch

    rope = config.rope_parameters or {}
    scaled = rope.get("rope_type", "default") == "llama3"
    moe: dict[str, Any] = {"num_experts": None}
    if shape.experts:
        moe = {
            "num_experts": shape.experts,
            "moe_ffn_hidden_size": config.moe_intermediate_size,
            "moe_router_topk": config.num_experts_per_tok,
            # softmax over all experts, then the best: what norm_topk_prob divides again by their sum
            "moe_router_pre_softmax": not config.norm_topk_prob,
            "moe_layer_freq": [int(one) for one in shape.sparse],
            "moe_router_load_balancing_type": "aux_loss",
        }
    return argparse.Namespace(
        num_layers=shape.layers,
        hidden_size=config.hidden_size,
        ffn_hidden_size=config.intermediate_size,
        num_attention_heads=shape.heads,
        group_query_attention=shape.groups != shape.heads,
        num_query_groups=shape.groups,
        kv_channels=getattr(config, "head_dim", None) or config.hidden_size // shape.heads,
        seq_length=config.max_position_embeddings,
        max_position_embeddings=config.max_position_embeddings,
        position_embedding_type="rope",
        add_position_embedding=False,
        rotary_base=int(rope.get("rope_theta", 10000)),
        rotary_percent=1.0,
        use_rotary_position_embeddings=True,
        use_rope_scaling=scaled,
        rope_scaling_factor=rope.get("factor", 8.0) if scaled else 8.0,
        normalization="RMSNorm",
        norm_epsilon=config.rms_norm_eps,
        swiglu=True,
        add_bias_linear=False,
        add_qkv_bias=shape.qkv_bias,
        qk_layernorm=shape.qk_norm,
        untie_embeddings_and_output_weights=not shape.tied,
        vocab_size=shape.vocab,
        make_vocab_size_divisible_by=layout.divisible,
        padded_vocab_size=layout.padded(shape.vocab),
        tokenizer_type="HuggingFaceTokenizer",
        attention_dropout=0.0,
        hidden_dropout=0.0,
        params_dtype=dtype,
        bf16=dtype == torch.bfloat16,
        fp16=dtype == torch.float16,
        transformer_impl="transformer_engine" if layout.spec == "te" else "local",
        tensor_model_parallel_size=layout.tensor,
        pipeline_model_parallel_size=layout.pipeline,
        virtual_pipeline_model_parallel_size=layout.virtual if layout.virtual > 1 else None,
        expert_model_parallel_size=layout.expert,
        expert_tensor_parallel_size=layout.tensor,
        iteration=0,
        consumed_train_samples=0,
        consumed_valid_samples=0,
        **moe,
    )
