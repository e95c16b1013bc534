"""The `chain_of_thought` technique: the model thinks aloud and marks its answer."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.evaluate.items import Item, Message
from raylm.evaluate.techniques.technique import Technique, with_instruction

STEPS = "Think step by step. Then write the final answer alone on the last line, after ####."


class ChainOfThought(Technique):
    r"""An instruction behind the question (https://arxiv.org/abs/2205.11916), and where there are examples with their reasoning
    these before it (https://arxiv.org/abs/2201.11903). Checkers take what is marked by `####` or `\boxed{...}` for the answer."""

    kind: Literal["chain_of_thought"] = "chain_of_thought"
    instruction: str = STEPS
    """Stands behind the question, and behind those of examples."""
    num_examples: int = Field(default=0, ge=0)
    """Solved questions of the train split before the question, the same ones for every question."""
    reasoning: str = "reasoning"
    """Column of the prompts' rows with the way to an example's answer; rows without it are no examples."""
    seed: int = Field(default=0, ge=0)
    """Which examples."""

    @property
    def examples(self) -> tuple[int, int]:
        return self.num_examples, self.seed

    def messages(self, item: Item, shots: list[Item]) -> list[Message]:
        told = [shot._replace(messages=with_instruction(shot.messages, self.instruction)) for shot in shots]
        return super().messages(item._replace(messages=with_instruction(item.messages, self.instruction)), told)

    def solution(self, shot: Item) -> str:
        return f"{shot.columns[self.reasoning]}\n#### {shot.ground_truth}"

    def lacks(self, shot: Item) -> str:
        return super().lacks(shot) or ("" if shot.columns.get(self.reasoning) else f"without a column {self.reasoning!r}")
