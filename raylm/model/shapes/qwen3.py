"""An untrained Qwen3 of a given shape."""

from __future__ import annotations

from typing import ClassVar, Literal

from raylm.model.shapes.shape import Decoder


class Qwen3(Decoder):
    """Qwen3 (https://arxiv.org/abs/2505.09388): queries and keys are normed."""

    classes: ClassVar[tuple[str, str]] = ("Qwen3Config", "Qwen3ForCausalLM")

    kind: Literal["qwen3"] = "qwen3"
