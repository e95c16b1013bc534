"""Runs one model on one task: a grade, or an error that says why there is none."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.errors import DataError, RaylmError
from raylm.core.storage import Folder
from raylm.data.shards import Rows
from raylm.evaluate.encode import encoded_anew
from raylm.evaluate.lm import LM
from raylm.model.load import load_tokenizer
from raylm.model.same_tokens import other_tokens
from raylm.model.shapes.shape import Shape

# rows of a task that says nothing of their number
ROWS = 256


class Mark(NamedTuple):
    """What one task found out about one model; `note` is for the reader, "" for nothing."""

    grades: dict[str, float]
    note: str


class Marks:
    """Finished marks, a file for each model and task: what a run that ended early need not ask again.

    Args:
        folder: in the stage's work folder.
    """

    def __init__(self, folder: Folder) -> None:
        self._folder = folder

    def read(self, model: str, task: int) -> Mark | None:
        """The mark of `model` in task number `task`, None when there is none yet."""
        name = self._name(model, task)
        return Mark(**self._folder.read_json(name)) if self._folder.exists(name) else None

    def write(self, model: str, task: int, mark: Mark) -> None:
        """Keep a mark."""
        self._folder.write_json(self._name(model, task), mark._asdict())

    def _name(self, model: str, task: int) -> str:
        return f"{task}-{digest_of(model)}.json"


def examine(lm: LM, card: Any, uri: str | None) -> Mark:
    """Ask one task.

    Args:
        uri: the artifact of the task's rows; None for a task that brings its own texts.

    Raises:
        DataError: the rows are of another tokenizer than the model's, or no finite grade came of them.
    """
    notes: list[str] = []
    grades = card.grade(lm, None if uri is None else _rows_for(lm, card, uri, notes))
    for name, value in grades.items():
        if not math.isfinite(value):
            raise DataError(f"{name} is {value}: no grade", where=uri, next="look at the model's weights and at the rows")
    left = lm.told()
    return Mark(grades, "; ".join([*notes, *([f"without {left}"] if left else [])]))


def _rows_for(lm: LM, card: Any, uri: str, notes: list[str]) -> Any:
    """The task's rows in the model's tokens; adds to `notes` where they had to be encoded anew."""
    rows: Any = Rows.open(uri, "held_out")
    num_rows = min(getattr(card, "num_rows", ROWS), len(rows))
    theirs = load_tokenizer(Folder(uri).path("tokenizer"))
    why = other_tokens((rows[at] for at in range(num_rows)), theirs, lm.tokenizer)
    if not why:
        return rows
    if not getattr(card, "text", False):
        raise DataError(
            f"the rows are of another tokenizer than the model's: {why}",
            where=uri,
            next="tokenize them with `tokenizer` set to this model, for an evaluate stage of its own",
        )
    notes.append("the rows are of another tokenizer; their text was encoded anew with the model's")
    return encoded_anew([rows[at]["tokens"] for at in range(num_rows)], theirs, lm)


def grade_logprobs(
    path: str,
    fresh: tuple[Shape, dict[str, Any], int] | None,
    tasks: list[tuple[int, Any, str | None]],
    model: str,
    marks: Marks,
) -> dict[int, str]:
    """All log-probability tasks of one model; runs on a worker, which keeps each mark at once.

    Args:
        tasks: number, card, and URI of its rows.

    Returns:
        Why there is no mark, by the task's number.
    """
    lm = LM(path, fresh)
    refused: dict[int, str] = {}
    for number, card, uri in tasks:
        try:
            marks.write(model, number, examine(lm, card, uri))
        except RaylmError as refusal:
            refused[number] = " ".join(str(refusal).split())
    return refused
