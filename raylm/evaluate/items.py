"""Questions of a generation task: the held-out prompts with all that their rows say."""

from __future__ import annotations

import json
from typing import Any, NamedTuple

from raylm.data.answers import ground_truth_of
from raylm.evaluate.instances import asked_id

Message = dict[str, Any]


class Item(NamedTuple):
    """One question. Example: Item("3f...", [{"role": "user", "content": "2 + 2?"}], "4", {}, "sums")."""

    id: str
    """Digest of what is asked, with the row's columns (choices, tests): the same for all models, tokenizers and techniques."""
    messages: list[Message]
    ground_truth: str | None
    columns: dict[str, Any]
    """What else its row says."""
    source: str

    @property
    def question_id(self) -> str:
        """Digest of what is asked without the columns: rows that differ in these alone ask the same."""
        return asked_id(self.messages, self.ground_truth)

    @property
    def question(self) -> str:
        """What is asked, as one text."""
        return "\n".join(str(turn.get("content") or "") for turn in self.messages)


def items_of(rows: Any, most: int) -> list[Item]:
    """The first `most` rows of Prompts as questions."""
    return [item_of(rows[at]) for at in range(min(most, len(rows)))]


def item_of(row: dict[str, Any]) -> Item:
    """A row of Prompts as a question."""
    turns = json.loads(row["messages"])
    columns = json.loads(row.get("columns") or "{}")
    truth = ground_truth_of(row.get("ground_truth"))
    name = asked_id(turns, truth, columns) if columns else asked_id(turns, truth)
    return Item(name, turns, truth, columns, str(row.get("source") or ""))
