"""What all shapes of untrained models have in common."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.model.model_spec import ModelSpec, model_spec

if TYPE_CHECKING:
    import torch

TOKENS = ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id")


def kind_of(table: Any) -> str:
    """Discriminator of the union of shapes: a table without `kind` is a Llama."""
    return table.get("kind", "llama") if isinstance(table, dict) else table.kind


class Shape(Config):
    """A network to be trained from scratch; vocabulary and special tokens come from the rows' tokenizer."""

    classes: ClassVar[tuple[str, str]]
    """Names of transformers' config and model class; their modules are called like the kind."""

    kind: str
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    num_layers: int = Field(gt=0)
    """Number of transformer blocks."""
    num_heads: int = Field(gt=0)
    """Number of query heads."""
    intermediate_size: int | None = Field(default=None, gt=0)
    """Width of the feed-forward layer; 8/3 of `hidden_size` to the next 64 when absent."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Shape:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        return self

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layer."""
        return self.intermediate_size or -(-8 * self.hidden_size // 3 // 64) * 64

    def fields(self) -> dict[str, Any]:
        """The shape's part of config.json, in transformers' names."""
        raise NotImplementedError

    def config(self, tokens: dict[str, Any]) -> dict[str, Any]:
        """config.json as a dict, for counting: parameters, FLOPs. `tokens` needs `vocab_size` alone."""
        return {"model_type": self.kind, **self.fields(), **{name: tokens[name] for name in TOKENS if name in tokens}}

    def num_parameters(self, vocab_size: int) -> int:
        """Number of weights for a vocabulary of `vocab_size`, as `raylm plan` shows it."""
        return self._anatomy(vocab_size).num_parameters()

    def num_active_parameters(self, vocab_size: int) -> int:
        """Weights that one token meets; less than all where there are experts."""
        return self._anatomy(vocab_size).num_active_parameters()

    def build(self, tokens: dict[str, Any], seed: int) -> torch.nn.Module:
        """The model with fresh float32 weights, the same on every machine for the same seed.

        Args:
            tokens: facts of the rows: vocab_size, bos_token_id, eos_token_id, pad_token_id.
        """
        import torch

        missing = [name for name in TOKENS if name not in tokens]
        if missing:
            raise ConfigError(f"the rows say nothing of {', '.join(missing)}", next="make them with a tokenize stage")
        fields = {name: value for name, value in self.config(tokens).items() if name != "model_type"}
        # the modules themselves, not `from transformers import ...`: that walks through every model family first
        room = f"transformers.models.{self.kind}"
        config = getattr(import_module(f"{room}.configuration_{self.kind}"), self.classes[0])(**fields)
        torch.manual_seed(seed)
        config.architectures = [self.classes[1]]
        return getattr(import_module(f"{room}.modeling_{self.kind}"), self.classes[1])(config).float()

    def _anatomy(self, vocab_size: int) -> ModelSpec:
        return model_spec(self.config({"vocab_size": vocab_size}))


class Decoder(Shape):
    """A causal language model with rotary positions and gated feed-forward layers."""

    num_kv_heads: int | None = Field(default=None, gt=0)
    """Number of key and value heads; as many as query heads when absent."""
    max_length: int = Field(default=1024, gt=0)
    """Longest sequence, in tokens."""
    rope_theta: float = Field(default=10_000.0, gt=0)
    """Base of the rotary position embedding."""
    tie_embeddings: bool = True
    """Whether input and output embedding share their weights."""

    @model_validator(mode="after")
    def _kv_heads_divide(self) -> Decoder:
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self

    def fields(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads or self.num_heads,
            "intermediate_size": self.feed_forward,
            "max_position_embeddings": self.max_length,
            "head_dim": self.hidden_size // self.num_heads,
            "tie_word_embeddings": self.tie_embeddings,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
        }


class Experts(Decoder):
    """A decoder whose feed-forward layers are experts, of which each token is sent to a few."""

    num_experts: int = Field(gt=1)
    """Experts in each layer that has them."""
    experts_per_token: int = Field(gt=0)
    """Experts that each token is sent to."""
    expert_size: int = Field(gt=0)
    """Width of one expert."""
    first_dense_layers: int = Field(default=0, ge=0)
    """Layers from the bottom that have one feed-forward layer of `intermediate_size` in place of experts."""

    @model_validator(mode="after")
    def _experts_suffice(self) -> Experts:
        if self.experts_per_token > self.num_experts:
            raise ValueError(f"experts_per_token {self.experts_per_token} is more than num_experts {self.num_experts}")
        if self.expert_size % 8 or self.hidden_size % 8:
            raise ValueError("experts need a hidden_size and an expert_size that 8 divides: kernels read 16 bytes at a time")
        if self.first_dense_layers >= self.num_layers:
            raise ValueError(f"first_dense_layers {self.first_dense_layers} leaves none of {self.num_layers} layers to experts")
        return self

    def fields(self) -> dict[str, Any]:
        return {
            **super().fields(),
            "num_experts_per_tok": self.experts_per_token,
            "moe_intermediate_size": self.expert_size,
            "norm_topk_prob": True,
        }
