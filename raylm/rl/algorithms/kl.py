"""KL to the reference model, in the loss or in the reward: estimators, and a coefficient that is fixed or follows a target."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal, Self

from pydantic import Field, model_validator

from raylm.core.config import Config

COEFFICIENT = "kl_coefficient"
"""Of an adaptive penalty, in `Experience.state`."""
MOST = 20.0
"""Log-ratios are cut here before they are exponents: exp(20) is 5e8."""


class Kl(Config):
    """A penalty on KL(policy || reference); the reference is the model as it was before the stage."""

    coefficient: float = Field(default=0.05, ge=0, allow_inf_nan=False)
    """What a token's estimate is multiplied by; 0 needs no reference. Of an adaptive penalty: what it begins with."""
    estimator: Literal["k1", "k2", "k3"] | None = None
    """Of one token's KL from d = log(policy / reference) (http://joschu.net/blog/kl-approx.html): k1 = d, k2 = d^2 / 2,
    k3 = exp(-d) - 1 + d. Not said: k3 in the loss, as GRPO has it, and k1 in the reward, as PPO and RLOO have it."""
    in_reward: bool = False
    """Take it from the reward of each token, or add it to the loss."""
    target: float | None = Field(default=None, gt=0, allow_inf_nan=False)
    """In the reward: the coefficient follows this mean of a token's estimate (adaptive KL, https://arxiv.org/abs/1909.08593)."""
    horizon: float = Field(default=10_000.0, gt=0, allow_inf_nan=False)
    """Completions over which an adaptive coefficient changes: at most by a fifth in so many."""

    @model_validator(mode="after")
    def _check(self) -> Self:
        if self.target is not None and not self.in_reward:
            raise ValueError("an adaptive coefficient (`target`) is of a KL in the reward: set in_reward = true")
        if self.estimator == "k1" and not self.in_reward:
            raise ValueError(
                "the gradient of k1 averages to 0 on what the policy drew itself: in the loss take k2 or k3, or set in_reward"
            )
        return self

    def estimate(self, log_ratio: Any, exp: Callable[[Any], Any]) -> Any:
        """Estimate of each token's KL.

        Args:
            log_ratio: log(policy / reference), a torch tensor or a numpy array.
            exp: of the same library.
        """
        estimator = self.estimator or ("k1" if self.in_reward else "k3")
        if estimator == "k1":
            return log_ratio
        if estimator == "k2":
            return 0.5 * log_ratio**2
        log_ratio = log_ratio.clip(-MOST, MOST)
        return exp(-log_ratio) - 1.0 + log_ratio

    def coefficient_of(self, state: dict[str, float]) -> float:
        """What holds in this iteration."""
        return state.get(COEFFICIENT, self.coefficient) if self.target is not None else self.coefficient

    def follow(self, state: dict[str, float], kl: float, completions: int) -> dict[str, float]:
        """The state with the coefficient of the next iteration.

        Args:
            kl: mean estimate of a token, of `completions` completions.
        """
        if self.target is None:
            return state
        error = min(max(kl / self.target - 1.0, -0.2), 0.2)
        return {**state, COEFFICIENT: self.coefficient_of(state) * (1.0 + error * completions / self.horizon)}
