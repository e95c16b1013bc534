"""The `length` reward: how close a completion comes to a length, or how far it goes beyond one."""

from __future__ import annotations

import math
from typing import Literal

from pydantic import Field, model_validator

from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Prompt, Score, Trajectory


class Length(Reward):
    """A reward of the length alone, in tokens that were drawn, words or characters. Add it to others by its `weight`.

    `target`: value * max(0, 1 - |length - target| / tolerance).
    `soft`: 0 up to `target` - `tolerance`, then falling to -value at `target`: DAPO's soft punishment of overlong answers
    (https://arxiv.org/abs/2503.14476 equation 13, `target` being the length at which answers are cut).
    `cosine`: from value at length 0 down to 0 at `target`, along a cosine (https://arxiv.org/abs/2502.03373, for right answers).
    """

    kind: Literal["length"] = "length"
    target: int = Field(gt=0)
    """The length that is meant."""
    shape: Literal["target", "soft", "cosine"] = "target"
    """How the reward falls with the distance."""
    tolerance: int | None = Field(default=None, gt=0)
    """Distance at which nothing is left (target), or over which the punishment grows (soft); half of `target` where it does
    not say."""
    unit: Literal["tokens", "words", "characters"] = "tokens"
    """What is counted."""
    value: float = Field(default=1.0, allow_inf_nan=False)
    """Largest reward, or punishment."""

    @model_validator(mode="after")
    def _has_room(self) -> Length:
        if self.shape == "soft" and (self.tolerance or 0) > self.target:
            raise ValueError(f"tolerance = {self.tolerance} is more than target = {self.target}")
        return self

    def score_one(self, prompt: Prompt, trajectory: Trajectory) -> Score:
        """The reward, with the length."""
        length = self._length(trajectory)
        tolerance = self.tolerance or max(self.target // 2, 1)
        if self.shape == "target":
            share = max(0.0, 1.0 - abs(length - self.target) / tolerance)
        elif self.shape == "soft":
            share = -min(max((length - (self.target - tolerance)) / tolerance, 0.0), 1.0)
        else:
            share = 0.5 * (1.0 + math.cos(math.pi * min(length / self.target, 1.0)))
        return Score(self.value * share, f"{length} {self.unit}")

    def _length(self, drawn: Trajectory) -> int:
        if self.unit == "characters":
            return len(drawn.text)
        if self.unit == "words":
            return len(drawn.text.split())
        return len(drawn.tokens) if drawn.mask is None else int(sum(drawn.mask))
