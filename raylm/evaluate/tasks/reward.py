"""The `reward` task: what a reward model says of greedy answers."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal

from pydantic import Field

from raylm.core.config import Config, PromptsRef, Refers
from raylm.core.errors import DataError
from raylm.data.shards import Rows
from raylm.evaluate.instances import Graded, asked_id, question_of, source_of
from raylm.inference.completions import Sampling

if TYPE_CHECKING:
    from raylm.evaluate.lm import LM


class Reward(Config):
    """Mean value at the last token of prompt and greedy answer, by a model with a value head (objective `reward`,
    https://arxiv.org/abs/2203.02155). It reads the tokens that were drawn: its tokenizer and chat template must be those of the
    prompts."""

    needs: ClassVar[str] = "generate"
    better: ClassVar[dict[str, str]] = {"reward": "high"}
    asks_values: ClassVar[bool] = True
    """A worker beside the engine says what answers are worth."""

    kind: Literal["reward"] = "reward"
    rows: PromptsRef
    """Prompts; their held-out split is used."""
    model: Annotated[str, Refers(("Checkpoint",), ("reward",))]
    """The reward model."""
    num_rows: int = Field(default=128, gt=0)
    """Prompts at most."""
    max_tokens: int = Field(default=128, gt=0)
    """Longest answer; one that is cut is graded as it is."""
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    """What the reward model computes in; `auto`: as it is stored."""
    batch_tokens: int = Field(default=16_384, gt=0)
    """Tokens of one of its forward passes, padding included."""

    def grade(self, lm: LM, rows: Rows) -> list[Graded]:
        """The value of each answer of prompts that could be asked. Raises DataError where a value is not finite."""
        picked = [rows[at] for at in range(min(self.num_rows, len(rows)))]
        prompts = [[int(token) for token in row["tokens"]] for row in picked]
        sampling = Sampling(max_tokens=self.max_tokens, temperature=0.0)
        answered = [each for each in zip(picked, prompts, lm.complete(prompts, sampling), strict=True) if each[2] is not None]
        values = lm.values(self, [[*prompt, *one.tokens] for _, prompt, one in answered if one])
        if wrong := sum(not math.isfinite(value) for value in values):
            raise DataError(
                f"{wrong} of {len(values)} answers have no finite value", where=self.model, next="look at its weights"
            )
        return [
            Graded(
                asked_id(prompt),
                {"reward": value},
                {"reward": 1.0},
                source_of(row),
                question_of(row),
                one.text,
                one.num_tokens,
                one.seconds,
            )
            for (row, prompt, one), value in zip(answered, values, strict=True)
            if one
        ]
