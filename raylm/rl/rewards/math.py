r"""The `math` reward: whether a completion's final answer is mathematically that of the ground truth."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raylm.core.errors import ConfigError
from raylm.data.answers import answer_of, ground_truth_of
from raylm.data.mathematics import compare, installed, prepare
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Score, Unscored


class Math(Reward):
    r"""Answers are compared by math-verify (https://github.com/huggingface/Math-Verify): `\frac{1}{2}`, `0.5` and `50\%` are
    one, as are `x + y` and `y + x`, `\{1, 2\}` and `\{2, 1\}`; a half-open interval is not an open one. Plain numbers are
    compared exactly, by their value (raylm.data.numbers), however many digits they have.

    What it takes from a completion is the last `\boxed{...}`, or else what follows `####`, or else (unless `boxed`) the last
    expression. What stands in `<think>` is no answer.
    """

    needs: ClassVar[tuple[str, ...]] = ("ground_truth",)
    skips_thoughts: ClassVar[bool] = True

    kind: Literal["math"] = "math"
    value: float = Field(default=1.0, allow_inf_nan=False)
    """Reward of a right answer; a wrong one, or none, gets 0."""
    opened: bool = False
    """The prompt ends with `<think>` already opened, as some templates have it: an unfinished thought is no answer."""
    boxed: bool = False
    r"""Only what stands in `\boxed{...}` or after `####` is an answer."""

    def can_score(self, ground_truth: str | None) -> bool:
        """Whether there is something to compare with; prompts without it are left out and counted."""
        return ground_truth_of(ground_truth) is not None

    def check(self, where: str) -> None:
        """Raises ConfigError where math-verify is not installed on this machine, unless that is one which only plans."""
        from importlib.util import find_spec

        if not installed() and find_spec("torch") is not None:
            raise ConfigError(
                "the reward `math` compares answers by the package math-verify, which is not installed",
                where=where,
                next='pip install math-verify; or compare plain answers with {kind = "answer"}',
            )

    def runner(self) -> Math:
        """This card, with math-verify imported. Raises ConfigError where it is not installed."""
        self.check("rewards")
        # the deadline is that of the rewards' process
        prepare()
        return self

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score | Unscored:
        """`value` or 0, with the reason."""
        truth = ground_truth_of(ground_truth)
        if truth is None:
            return Score(0.0, "the prompt has no ground truth")
        found = compare(answer_of(completion, self.opened), truth, self.boxed)
        if found.right is None:
            return Unscored("no_answer", found.why)
        return Score(self.value if found.right else 0.0, found.why)
