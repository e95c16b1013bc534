"""The `few_shot` technique: solved questions stand before the question."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.evaluate.techniques.technique import Technique


class FewShot(Technique):
    """Questions of the prompts' train split with their ground truths, as turns of the dialogue
    (https://arxiv.org/abs/2005.14165)."""

    kind: Literal["few_shot"] = "few_shot"
    num_examples: int = Field(default=4, ge=1)
    """Solved questions, the same ones before every question."""
    seed: int = Field(default=0, ge=0)
    """Which ones."""

    @property
    def examples(self) -> tuple[int, int]:
        return self.num_examples, self.seed
