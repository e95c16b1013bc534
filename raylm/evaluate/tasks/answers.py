"""The `answers` task: the share of greedy answers that give the ground truth."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, PromptsRef
from raylm.core.errors import DataError
from raylm.data.answers import answer_of, ground_truth_of, same, says
from raylm.data.shards import Rows
from raylm.evaluate.instances import Graded, asked_id, question_of, source_of
from raylm.inference.completions import Sampling

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class Answers(Config):
    """Accuracy of greedy answers: the ground truth stands in the answer (behind what a model thinks aloud) as a whole word or as
    a number of exactly that value, and none of the other answers does."""

    needs: ClassVar[str] = "generate"
    better: ClassVar[dict[str, str]] = {"answers": "high"}
    shares: ClassVar[tuple[str, ...]] = ("answers",)
    """Metrics that are shares of instances."""

    kind: Literal["answers"] = "answers"
    rows: PromptsRef
    """Prompts; their held-out split is used."""
    num_rows: int = Field(default=128, gt=0)
    """Prompts at most."""
    max_tokens: int = Field(default=32, gt=0)
    """Longest answer."""
    among: list[str] = []
    """All possible answers; one that names two of them is wrong."""

    def grade(self, lm: LM, rows: Rows) -> list[Graded]:
        """Right answers among prompts that have a ground_truth. Raises DataError when none has."""
        picked = [rows[index] for index in range(min(self.num_rows, len(rows)))]
        picked = [row for row in picked if ground_truth_of(row["ground_truth"])]
        if not picked:
            raise DataError(
                "no prompt has a ground truth: there is nothing to compare answers with",
                where=self.rows,
                next="give the rows an `answer` column",
            )
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0)
        answered = lm.complete([lm.prompt(row) for row in picked], sampling)
        return [
            Graded(
                asked_id(row["tokens"], str(row["ground_truth"])),
                {"answers": self._right(one.text, str(row["ground_truth"]))},
                {"answers": 1.0},
                source_of(row),
                f"{question_of(row)}\n(ground truth: {row['ground_truth']})",
                one.text,
                one.num_tokens,
                one.seconds,
            )
            for one, row in zip(answered, picked, strict=True)
            if one is not None
        ]

    def _right(self, text: str, ground_truth: str) -> bool:
        text = answer_of(text)
        return says(text, ground_truth) and not any(says(text, word) for word in self.among if not same(word, ground_truth))
