"""The `self_consistency` technique: many ways of thinking, and the answer that most of them come to."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field

from raylm.evaluate.techniques.chain_of_thought import ChainOfThought


class SelfConsistency(ChainOfThought):
    """Chains of thought are drawn, and their answers vote (https://arxiv.org/abs/2203.11171); of a tie the answer counts that was
    drawn first."""

    kind: Literal["self_consistency"] = "self_consistency"  # type: ignore[assignment]
    num_draws: int = Field(default=8, ge=2)
    """Answers that vote."""
    temperature: float = Field(default=0.7, gt=0, allow_inf_nan=False)
    """Of the draws."""

    @property
    def draws(self) -> int:
        return self.num_draws

    @property
    def sampling(self) -> dict[str, Any]:
        return {"temperature": self.temperature}
