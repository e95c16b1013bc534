"""The `pattern` reward: whether a whole completion matches a regular expression."""

from __future__ import annotations

import re
from typing import Literal

from pydantic import field_validator

from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Score


class Pattern(Reward):
    """Format reward: the whole completion matches a regular expression."""

    kind: Literal["pattern"] = "pattern"
    pattern: str
    """Regular expression; `.` matches line ends too."""
    value: float = 0.2
    """Reward of a completion that matches."""

    @field_validator("pattern")
    @classmethod
    def _compiles(cls, pattern: str) -> str:
        try:
            re.compile(pattern)
        except re.error as cause:
            raise ValueError(f"not a regular expression: {cause}") from cause
        return pattern

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score:
        """`value` or 0, with the reason."""
        matches = re.fullmatch(self.pattern, completion.strip(), re.DOTALL)
        return Score(self.value, "has the form") if matches else Score(0.0, "has not the form")
