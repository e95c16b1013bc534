"""An untrained T5 of a given shape."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.model.shapes.shape import Shape


class T5(Shape):
    """T5 1.1 (https://arxiv.org/abs/1910.10683): encoder and decoder of `num_layers` blocks each, relative positions."""

    classes: ClassVar[tuple[str, str]] = ("T5Config", "T5ForConditionalGeneration")

    kind: Literal["t5"] = "t5"
    dropout: float = Field(default=0.0, ge=0, lt=1)
    """Dropout; T5 1.1 was pretrained without."""

    def fields(self) -> dict[str, Any]:
        return {
            "d_model": self.hidden_size,
            "num_layers": self.num_layers,
            "num_heads": self.num_heads,
            "d_kv": self.hidden_size // self.num_heads,
            "d_ff": self.feed_forward,
            "feed_forward_proj": "gated-gelu",
            "dropout_rate": self.dropout,
        }

    def config(self, tokens: dict[str, Any]) -> dict[str, Any]:
        # the decoder's first input is padding, as T5 was trained
        start = {"decoder_start_token_id": tokens["pad_token_id"]} if "pad_token_id" in tokens else {}
        return super().config(tokens) | start
