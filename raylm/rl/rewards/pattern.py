"""The `pattern` reward: whether a whole completion matches a regular expression."""

from __future__ import annotations

from typing import Literal

from raylm.data.patterns import Endless, matches_whole
from raylm.data.patterns import Pattern as Expression
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Score


class Pattern(Reward):
    """Format reward: the whole completion matches a regular expression."""

    kind: Literal["pattern"] = "pattern"
    pattern: Expression
    """Regular expression; `.` matches line ends too. A completion with which it comes to no end within 5 s does not match."""
    value: float = 0.2
    """Reward of a completion that matches."""

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score:
        """`value` or 0, with the reason."""
        try:
            matches = matches_whole(self.pattern, completion.strip())
        except Endless as cause:
            return Score(0.0, cause.what)
        return Score(self.value, "has the form") if matches else Score(0.0, "has not the form")
