"""An untrained Qwen3 with experts, of a given shape."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from raylm.model.shapes.shape import Experts


class Qwen3Moe(Experts):
    """Qwen3 with experts (https://arxiv.org/abs/2505.09388): a softmax router, no shared expert."""

    classes: ClassVar[tuple[str, str]] = ("Qwen3MoeConfig", "Qwen3MoeForCausalLM")

    kind: Literal["qwen3_moe"] = "qwen3_moe"

    def fields(self) -> dict[str, Any]:
        return {
            **super().fields(),
            "num_experts": self.num_experts,
            "mlp_only_layers": list(range(self.first_dense_layers)),
        }
