"""An untrained BERT of a given shape."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.model.shapes.shape import Shape


class Bert(Shape):
    """BERT (https://arxiv.org/abs/1810.04805): an encoder that is asked for masked tokens."""

    classes: ClassVar[tuple[str, str]] = ("BertConfig", "BertForMaskedLM")

    kind: Literal["bert"] = "bert"
    max_length: int = Field(default=512, gt=0)
    """Longest sequence, in tokens: each position has an embedding."""
    dropout: float = Field(default=0.1, ge=0, lt=1)
    """Dropout of activations and attention."""

    def fields(self) -> dict[str, Any]:
        return {
            "hidden_size": self.hidden_size,
            "num_hidden_layers": self.num_layers,
            "num_attention_heads": self.num_heads,
            "intermediate_size": self.feed_forward,
            "max_position_embeddings": self.max_length,
            "type_vocab_size": 2,
            "hidden_dropout_prob": self.dropout,
            "attention_probs_dropout_prob": self.dropout,
            "tie_word_embeddings": True,
        }

    @property
    def feed_forward(self) -> int:
        """Width of the feed-forward layer: not gated, hence 4 x hidden_size when absent."""
        return self.intermediate_size or 4 * self.hidden_size
