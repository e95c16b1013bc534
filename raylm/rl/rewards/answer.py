"""The `answer` reward: whether a completion gives the ground truth and no other answer."""

from __future__ import annotations

from typing import ClassVar, Literal

from pydantic import Field

from raylm.data.answers import answer_of, ground_truth_of, last_number_is, same, says
from raylm.data.numbers import numbers
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Score


class Answer(Reward):
    """Verifiable reward: the completion says the ground_truth, as a whole word or as a number of exactly that value; what stands
    in `<think>` is no answer."""

    needs: ClassVar[tuple[str, ...]] = ("ground_truth",)
    skips_thoughts: ClassVar[bool] = True

    kind: Literal["answer"] = "answer"
    value: float = Field(default=1.0, allow_inf_nan=False)
    """Reward of a right answer; a wrong one gets 0."""
    among: list[str] = []
    """The possible answers; a completion that names another of them too is wrong, so naming all does not pay."""
    opened: bool = False
    """The prompt ends with `<think>` already opened, as some templates have it: an unfinished thought is no answer."""
    last_number: bool = False
    """Compare the last number of the completion with the ground truth's last, as in grade-school maths (`#### 42`)."""

    def can_score(self, ground_truth: str | None) -> bool:
        """Whether there is something to compare with; prompts without it are left out and counted."""
        return ground_truth_of(ground_truth) is not None and (not self.last_number or bool(numbers(str(ground_truth))))

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> Score:
        """`value` or 0, with the reason."""
        if ground_truth is None or not self.can_score(ground_truth):
            return Score(0.0, "the prompt has no ground truth")
        completion = answer_of(completion, self.opened)
        if self.last_number:
            right = last_number_is(completion, ground_truth)
            return Score(self.value, "right number") if right else Score(0.0, "wrong or no number")
        if not says(completion, ground_truth):
            return Score(0.0, "does not say the answer")
        others = [word for word in self.among if not same(word, ground_truth) and says(completion, word)]
        return Score(0.0, f"also says {others[0]}") if others else Score(self.value, "right")
