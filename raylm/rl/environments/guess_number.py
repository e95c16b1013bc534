"""The `guess_number` environment: a text game in which each guess is answered with `higher` or `lower`."""

from __future__ import annotations

import re
from typing import Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from raylm.core.config import digest_of
from raylm.rl.environments.environment import Environment, Message, Step, Turn


class GuessNumber(Environment):
    """The model guesses a number from `low` to `high`. It is the prompt's ground truth, or follows from the prompt's row, so that
    all completions of a prompt look for the same one. Halving what is left finds it in log2(high - low + 1) guesses."""

    rewarded: ClassVar[bool] = True

    kind: Literal["guess_number"] = "guess_number"
    low: int = 1
    """Smallest number."""
    high: int = 16
    """Largest number."""
    cost: float = Field(default=0.1, ge=0, allow_inf_nan=False)
    """Taken from the reward of 1 for each guess that was wrong before the right one; a turn without a number is one too."""

    _wanted: int = PrivateAttr(default=0)
    _wrong: int = PrivateAttr(default=0)

    def reset(self, prompt: Any) -> list[Message]:
        size = max(1, self.high - self.low + 1)
        told = str(prompt.ground_truth or "").strip()
        wanted = int(told) if re.fullmatch(r"-?\d+", told) else self.low + int(digest_of(["guess", prompt.row]), 16) % size
        if not self.low <= wanted <= self.high:
            raise ValueError(f"the ground truth {wanted} is not from {self.low} to {self.high}")
        self._wanted, self._wrong = wanted, 0
        return []

    def step(self, turn: Turn) -> Step:
        found = re.findall(r"-?\d+", turn.content.rpartition("</think>")[2])
        # one guess a turn: who names all numbers has not found it
        guess = int(found[0]) if len(found) == 1 and len(found[0]) < 19 else None
        if guess == self._wanted:
            return Step(reward=max(0.0, 1.0 - self.cost * self._wrong), done=True, reason="found", metrics={"found": 1.0})
        self._wrong += 1
        said = "say one number" if guess is None else "higher" if guess < self._wanted else "lower"
        return Step([{"role": "user", "content": said}], metrics={"wrong_guesses": 1.0})
