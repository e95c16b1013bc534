"""The `arithmetic_questions` source: sums, differences and products of whole numbers, with a right and a wrong answer.

Recipe: every pair of numbers up to `largest` under every operation, in an order that has nothing to do with size, each in one of
several wordings. The right answer is marked `\\boxed{42}`, as maths rewards read it; the wrong one is near it.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.data.records import Rejected, document
from raylm.data.sources.stdlib import order_of
from raylm.data.sources.units import Span, Unit
from raylm.data.tools import in_order

_WORDINGS = ("What is {sum}?", "Compute {sum}.", "{sum} = ?", "How much is {sum}?")
Operation = Literal["add", "subtract", "multiply"]
_SIGNS = {"add": "+", "subtract": "-", "multiply": "*"}
CALCULATOR = {
    "type": "function",
    "function": {
        "name": "calculator",
        "description": "Work out an arithmetic expression.",
        "parameters": {"type": "object", "properties": {"expression": {"type": "string"}}, "required": ["expression"]},
    },
}
"""The tool as the environment `calculator` of rl offers it."""
_OFF_BY = (-10, -2, -1, 1, 2, 10)


class ArithmeticQuestions(Config):
    """Preference rows without a download: {prompt, chosen, rejected, answer}, good for dialogues, pairs and prompts; or dialogues
    with a tool."""

    kind: Literal["arithmetic_questions"] = "arithmetic_questions"
    num_rows: int = Field(default=3000, gt=0)
    """Rows at most: there are (largest + 1) ** 2 of each operation."""
    largest: int = Field(default=30, gt=0, le=1000)
    """Largest number that is asked about."""
    operations: list[Operation] = Field(default=["add", "subtract"], min_length=1)
    """What is asked; each is a source of its own (`arithmetic/add`) in metrics per source."""
    tools: bool = False
    """Each row is a dialogue in place of a preference: the assistant calls the tool `calculator` and says what it says."""

    def units(self) -> list[Unit]:
        """One unit: no file is read."""
        return [Unit((Span("", "arithmetic", 0, self.num_rows),))]

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """The rows, in an order that mixes them."""
        numbers = range(self.largest + 1)
        asked: list[tuple[Operation, int, int]] = [
            (operation, one, other) for operation in dict.fromkeys(self.operations) for one in numbers for other in numbers
        ]
        asked.sort(key=lambda each: order_of(" ".join(map(str, each))))
        for at, (operation, one, other) in enumerate(asked[: self.num_rows]):
            yield _row(at, operation, one, other, self.tools)


def _row(at: int, operation: Operation, one: int, other: int, tools: bool) -> dict[str, Any]:
    said = f"{one} {_SIGNS[operation]} {other}"
    luck = order_of(said)
    right = {"add": one + other, "subtract": one - other, "multiply": one * other}[operation]
    question, wrong = _WORDINGS[luck[0] % len(_WORDINGS)].format(sum=said), right + _OFF_BY[luck[1] % len(_OFF_BY)]
    record: dict[str, Any] = {
        "answer": str(right),
        "chosen": [{"content": _answer(right), "role": "assistant"}],
        "prompt": [{"content": question, "role": "user"}],
        "rejected": [{"content": _answer(wrong), "role": "assistant"}],
    }
    if tools:
        record = _dialogue(question, said, right)
    row = document(f"arithmetic/{operation}", at, at + 1, f"{question}\n\n{_answer(right)}", record)
    return {**row, "record": json.dumps(in_order(record), ensure_ascii=False)}


def _dialogue(question: str, said: str, right: int) -> dict[str, Any]:
    call = {"type": "function", "function": {"name": "calculator", "arguments": {"expression": said}}}
    return {
        "messages": [
            {"role": "user", "content": question},
            {"role": "assistant", "content": "", "tool_calls": [call]},
            {"role": "tool", "name": "calculator", "content": str(right)},
            {"role": "assistant", "content": _answer(right)},
        ],
        "tools": [CALCULATOR],
    }


def _answer(value: int) -> str:
    return f"\\boxed{{{value}}}"
