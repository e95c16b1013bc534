"""An untrained Qwen2 of a given shape."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from raylm.model.shapes.shape import Decoder


class Qwen2(Decoder):
    """Qwen2 (https://arxiv.org/abs/2407.10671): queries, keys and values have biases."""

    classes: ClassVar[tuple[str, str]] = ("Qwen2Config", "Qwen2ForCausalLM")

    kind: Literal["qwen2"] = "qwen2"

    def fields(self) -> dict[str, Any]:
        # the width of a head is no key of its own in this family
        return {name: value for name, value in super().fields().items() if name != "head_dim"}
