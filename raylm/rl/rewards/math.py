r"""The `math` reward: whether a completion's final answer is mathematically that of the ground truth."""

from __future__ import annotations

import logging
from typing import Any, ClassVar, Literal

from pydantic import Field

from raylm.core.errors import ConfigError
from raylm.data.answers import final, ground_truth_of
from raylm.data.numbers import number
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Score, Unscored

PACKAGE = "math_verify"
DIGITS = 30
"""Digits to which two numbers that are no plain ones (2*pi, sqrt(2)) must agree."""


class Math(Reward):
    r"""Answers are compared by math-verify (https://github.com/huggingface/Math-Verify): `\frac{1}{2}`, `0.5` and `50\%` are
    one, as are `x + y` and `y + x`, `\{1, 2\}` and `\{2, 1\}`; a half-open interval is not an open one. Plain numbers are
    compared exactly, by their value (raylm.data.numbers), however many digits they have.

    What it takes from a completion is the last `\boxed{...}`, or else what follows `####`, or else (unless `boxed`) the last
    expression.
    """

    needs: ClassVar[tuple[str, ...]] = ("ground_truth",)

    kind: Literal["math"] = "math"
    value: float = Field(default=1.0, allow_inf_nan=False)
    """Reward of a right answer; a wrong one, or none, gets 0."""
    boxed: bool = False
    r"""Only what stands in `\boxed{...}` or after `####` is an answer."""

    def can_score(self, ground_truth: str | None) -> bool:
        """Whether there is something to compare with; prompts without it are left out and counted."""
        return ground_truth_of(ground_truth) is not None

    def check(self, where: str) -> None:
        """Raises ConfigError where math-verify is not installed on this machine, unless that is one which only plans."""
        from importlib.util import find_spec

        if find_spec(PACKAGE) is None and find_spec("torch") is not None:
            raise ConfigError(
                "the reward `math` compares answers by the package math-verify, which is not installed",
                where=where,
                next='pip install math-verify; or compare plain answers with {kind = "answer"}',
            )

    def runner(self) -> Math:
        """This card, with math-verify imported. Raises ConfigError where it is not installed."""
        self.check("rewards")
        # it says in every process that its time limit is off; the deadline is that of the rewards' process
        for part in ("parser", "grader"):
            logging.getLogger(f"{PACKAGE}.{part}").setLevel(logging.ERROR)
        _parsed("1")
        return self

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score | Unscored:
        """`value` or 0, with the reason."""
        truth = ground_truth_of(ground_truth)
        if truth is None:
            return Score(0.0, "the prompt has no ground truth")
        said, wanted = final(completion), final(truth)
        if said == completion and self.boxed:
            return Score(0.0, "marks no answer")
        plain = number(wanted.strip().strip("$"))
        if plain is not None and (given := number(said.strip().strip("$"))) is not None:
            return self._given(given.same(plain))
        gold = _parsed(wanted)
        if not gold:
            return Unscored("no_answer", f"math-verify cannot read the ground truth {wanted[:80]!r}")
        found = _parsed(said, whole=said != completion)
        if not found:
            return Score(0.0, "no answer that can be read")
        return self._given(_same(gold, found))

    def _given(self, right: bool) -> Score:
        return Score(self.value, "right") if right else Score(0.0, "another answer")


def _parsed(text: str, whole: bool = True) -> list[Any]:
    """What math-verify reads in `text`: expressions, at least as a string of the first that it found.

    Args:
        whole: all of `text` is the answer; it may stand without marks of LaTeX around it.
    """
    from math_verify import parse

    marked = f"\\boxed{{{text}}}" if whole else text
    return parse(marked, parsing_timeout=0, raise_on_error=False)


def _same(gold: list[Any], found: list[Any]) -> bool:
    from math_verify import verify

    return bool(verify(gold, found, float_rounding=DIGITS, numeric_precision=DIGITS, timeout_seconds=None))
