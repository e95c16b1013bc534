"""The card of the merge-and-serve gate: what is compared before a written model counts as a checkpoint."""

from __future__ import annotations

from pydantic import Field

from raylm.core.config import Config

ALLOWED = {"float32": 1e-4, "bfloat16": 2e-2, "float8": 1e-1}
"""Largest mean absolute difference of log-probabilities, by the dtype of compute, for weights that are stored in float32."""


class CheckExport(Config):
    """What is compared before a checkpoint counts as made."""

    samples: int = Field(default=64, ge=0)
    """Rows (held-out ones where there are any) on which log-probabilities of the trained and of the written model are compared;
    0 compares none."""
    max_nats: float | None = Field(default=None, gt=0)
    """Largest mean absolute difference of log-probabilities; default: 1e-4 computed and stored in float32, 2e-2 in 16 bits, 1e-1
    computed in float8."""
    vllm: bool = False
    """Compare vLLM with the written model too; an engine is started for it (some 10 s on a CPU)."""

    def allowed(self, compute: str, stored: str | None) -> float:
        """The largest difference where one side computes in `compute` and the other holds weights as, or computes in, `stored`
        (as safetensors or torch spell it; None: float32)."""
        if self.max_nats is not None:
            return self.max_nats
        return max(ALLOWED[compute], ALLOWED["float32" if stored in ("F32", "F64", "float32", None) else "bfloat16"])
