"""Takes a completion and the true answer, leaves whether the completion says it and nothing else of its kind."""

from __future__ import annotations

import re
from typing import Literal

from raylm.core.config import Config
from raylm.rl.types import Score


class Answer(Config):
    """Verifiable reward: the truth stands in the completion as a whole word."""

    kind: Literal["answer"] = "answer"
    value: float = 1.0
    """Reward of a right answer; a wrong one gets 0."""
    among: list[str] = []
    """The possible answers; a completion that names another of them too is wrong, so naming all does not pay."""
    last_number: bool = False
    """Compare the last number of the completion with the truth, as in grade-school maths (`#### 42`)."""

    def score(self, prompt: str, completion: str, truth: str | None) -> Score:
        """`value` or 0, with the reason."""
        if truth is None:
            return Score(0.0, "the prompt has no truth")
        if self.last_number:
            numbers = re.findall(r"-?\d[\d,]*(?:\.\d+)?", completion)
            wanted = re.findall(r"-?\d[\d,]*(?:\.\d+)?", truth)
            right = bool(numbers and wanted) and _number(numbers[-1]) == _number(wanted[-1])
            return Score(self.value, "right number") if right else Score(0.0, "wrong or no number")
        if not _says(completion, truth):
            return Score(0.0, "does not say the answer")
        others = [word for word in self.among if word.lower() != truth.lower() and _says(completion, word)]
        return Score(0.0, f"also says {others[0]}") if others else Score(self.value, "right")


def _says(text: str, word: str) -> bool:
    return re.search(rf"(?<!\w){re.escape(word)}(?!\w)", text, re.IGNORECASE) is not None


def _number(text: str) -> float:
    return float(text.replace(",", ""))
