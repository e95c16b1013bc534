"""Takes a few numbers, leaves an untrained causal language model of that shape."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch


class Shape(Config):
    """A transformer to be trained from scratch; vocabulary and special tokens come from the rows' tokenizer."""

    kind: Literal["llama", "qwen3"] = "llama"
    """Architecture; both are transformers' own classes and load in vLLM."""
    hidden_size: int = Field(gt=0)
    """Width of the residual stream."""
    num_layers: int = Field(gt=0)
    """Number of transformer blocks."""
    num_heads: int = Field(gt=0)
    """Number of query heads."""
    num_kv_heads: int | None = None
    """Number of key and value heads; as many as query heads when absent."""
    intermediate_size: int | None = None
    """Width of the feed-forward layer; 8/3 of `hidden_size` to the next 64 when absent."""
    max_length: int = 1024
    """Longest sequence, in tokens."""
    rope_theta: float = 10_000.0
    """Base of the rotary position embedding."""
    tie_embeddings: bool = True
    """Whether input and output embedding share their weights."""

    @model_validator(mode="after")
    def _heads_divide(self) -> Shape:
        if self.hidden_size % self.num_heads:
            raise ValueError(f"hidden_size {self.hidden_size} is not a multiple of num_heads {self.num_heads}")
        if self.num_heads % (self.num_kv_heads or self.num_heads):
            raise ValueError(f"num_heads {self.num_heads} is not a multiple of num_kv_heads {self.num_kv_heads}")
        return self

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layer."""
        return self.intermediate_size or -(-8 * self.hidden_size // 3 // 64) * 64

    def num_parameters(self, vocab_size: int) -> int:
        """Number of weights for a vocabulary of `vocab_size`, as `raylm plan` shows it."""
        kv = self.hidden_size // self.num_heads * (self.num_kv_heads or self.num_heads)
        attention = 2 * self.hidden_size**2 + 2 * self.hidden_size * kv
        block = attention + 3 * self.hidden_size * self.feed_forward + 2 * self.hidden_size
        if self.kind == "qwen3":
            block += 2 * (self.hidden_size // self.num_heads)
        embeddings = vocab_size * self.hidden_size * (1 if self.tie_embeddings else 2)
        return self.num_layers * block + embeddings + self.hidden_size

    def build(self, tokens: dict[str, Any], seed: int) -> torch.nn.Module:
        """The model with fresh float32 weights, the same on every machine for the same seed.

        Args:
            tokens: facts of the rows: vocab_size, bos_token_id, eos_token_id, pad_token_id.
        """
        import torch

        missing = [name for name in ("vocab_size", "bos_token_id", "eos_token_id", "pad_token_id") if name not in tokens]
        if missing:
            raise ConfigError(f"the rows say nothing of {', '.join(missing)}", next="make them with a tokenize stage")
        torch.manual_seed(seed)
        fields = {
            "vocab_size": tokens["vocab_size"],
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "num_key_value_heads": self.num_kv_heads or self.num_heads,
            "intermediate_size": self.feed_forward,
            "max_position_embeddings": self.max_length,
            "head_dim": self.hidden_size // self.num_heads,
            "tie_word_embeddings": self.tie_embeddings,
            "rope_parameters": {"rope_type": "default", "rope_theta": self.rope_theta},
            "bos_token_id": tokens["bos_token_id"],
            "eos_token_id": tokens["eos_token_id"],
            "pad_token_id": tokens["pad_token_id"],
        }
        # the modules themselves, not `from transformers import ...`: that walks through every model family first
        if self.kind == "llama":
            from transformers.models.llama.configuration_llama import LlamaConfig
            from transformers.models.llama.modeling_llama import LlamaForCausalLM

            return LlamaForCausalLM(LlamaConfig(**fields)).float()
        from transformers.models.qwen3.configuration_qwen3 import Qwen3Config
        from transformers.models.qwen3.modeling_qwen3 import Qwen3ForCausalLM

        return Qwen3ForCausalLM(Qwen3Config(**fields)).float()
