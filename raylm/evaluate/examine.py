"""Runs one model on one task: a grade, or an error that says why there is none."""

from __future__ import annotations

import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.config import digest_of
from raylm.core.errors import DataError, RaylmError
from raylm.core.storage import Folder
from raylm.data.shards import Rows
from raylm.evaluate import instances
from raylm.evaluate.encode import encoded_anew
from raylm.evaluate.instances import Graded
from raylm.evaluate.journal import Journal
from raylm.evaluate.lm import LM
from raylm.model.load import load_tokenizer
from raylm.model.same_tokens import other_tokens
from raylm.model.shapes.shape import Shape

# rows of a task that says nothing of their number
ROWS = 256
MODEL_FILES = (".safetensors", ".bin", "config.json", "tokenizer.json", "tokenizer.model", ".jinja", "vocab.json", "merges.txt")
"""What the names of files end with that an answer depends on."""


class Mark(NamedTuple):
    """What one task found out about one model; `note` is for the reader, "" for nothing."""

    grades: dict[str, float]
    note: str


class Marks:
    """Finished marks, a file for each model and task, and what they are made of: what a run that ended early need not ask again.

    Args:
        folder: in the stage's work folder.
        instances: where the graded instances go; default: beside the marks.
        answers: where journals are kept; default: beside the marks.
    """

    def __init__(self, folder: Folder, instances: Folder | None = None, answers: Folder | None = None) -> None:
        self._folder, self._instances, self._answers = folder, instances or folder / "instances", answers or folder / "answers"

    def read(self, model: str, task: int) -> Mark | None:
        """The mark of `model` in task number `task`, None when there is none yet."""
        name = self._name(model, task)
        return Mark(**self._folder.read_json(name)) if self._folder.exists(name) else None

    def write(self, model: str, task: int, mark: Mark) -> None:
        """Keep a mark."""
        self._folder.write_json(self._name(model, task), mark._asdict())

    def keep(self, model: str, task: str, graded: list[Graded]) -> None:
        """Keep the instances of `model` in the task of that name; before its mark, which says that they are whole."""
        instances.write(self._instances, instances.file_of(model, task), graded)

    def graded(self, model: str, task: str) -> list[Graded]:
        """The instances of `model` in a task; [] where there are none."""
        name = instances.file_of(model, task)
        return instances.read(self._instances, name) if self._instances.exists(name) else []

    def journal(self, model: str, path: str) -> Journal:
        """Answers of a model: what a run that died in the middle of a task has of it.

        Args:
            path: its files. Weights that were changed since are another model.
        """
        return Journal(self._answers / digest_of([model, path, _files(path)]))

    def follow(self, model: str, path: str) -> None:
        """Forget the marks of a model whose files are no longer those that they were made of: weights that no stage made may be
        written again between a run that died and the next one.

        Args:
            path: its files.
        """
        name, now = f"files-{digest_of(model)}.json", _files(path)
        if self._answers.exists(name) and self._answers.read_json(name) != now:
            for mark in self._folder.files():
                if mark.endswith(f"-{digest_of(model)}.json"):
                    self._folder.remove(mark)
        self._answers.write_json(name, now)

    def _name(self, model: str, task: int) -> str:
        return f"{task}-{digest_of(model)}.json"


def _files(path: str) -> list[list[Any]]:
    """What a model on this machine is made of, by name, size and time: weights, configuration, tokenizer, template."""
    at = Path(path)
    if "://" in path or not at.is_dir():
        return []
    found = sorted(file for file in at.iterdir() if file.is_file() and file.name.endswith(MODEL_FILES))
    return [[file.name, file.stat().st_size, file.stat().st_mtime_ns] for file in found]


def examine(lm: LM, card: Any, uri: str | None, keep: Callable[[list[Graded]], None] | None = None) -> Mark:
    """Ask one task.

    Args:
        uri: the artifact of the task's rows; None for a task that brings its own texts.
        keep: is handed the graded instances.

    Raises:
        DataError: the rows are of another tokenizer than the model's, or no finite grade came of them.
    """
    notes: list[str] = []
    graded = instances.kept(card.grade(lm, None if uri is None else _rows_for(lm, card, uri, notes)))
    grades = instances.summary_of(card)(graded)
    for name in card.better:
        if not math.isfinite(value := grades.get(name, math.nan)):
            raise DataError(f"{name} is {value}: no grade", where=uri, next="look at the model's weights and at the rows")
    if keep is not None:
        keep(graded)
    told = card.notes(graded) if hasattr(card, "notes") else []
    return Mark(grades, "; ".join([*told, *notes, *lm.notes()]))


def _rows_for(lm: LM, card: Any, uri: str, notes: list[str]) -> Any:
    """The task's rows in the model's tokens; adds to `notes` where they had to be encoded anew."""
    rows: Any = Rows.open(uri, "held_out")
    if getattr(card, "any_tokenizer", False):
        # their text or messages are asked
        return rows
    if lm.tokenizer is None or not (lm.reads_tokens or "logprobs" in card.needs):
        # an endpoint is asked by messages, whatever tokens stand beside them
        return rows
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


class Asked(NamedTuple):
    """A task as a worker gets it."""

    number: int
    card: Any
    uri: str | None
    """Of its rows; None for a task that brings its own texts."""
    name: str = ""
    """What its instances are kept under."""


def grade_logprobs(
    path: str, fresh: tuple[Shape, dict[str, Any], int] | None, tasks: list[Any], model: str, marks: Marks
) -> dict[int, str]:
    """All log-probability tasks of one model; runs on a worker, which keeps each answer and each mark at once.

    Args:
        tasks: of `Asked`.

    Returns:
        Why there is no mark, by the task's number.
    """
    return grade_all(LM(path, fresh, journal=marks.journal(model, path)), tasks, model, marks)


def grade_all(lm: LM, tasks: list[Any], model: str, marks: Marks, note: str = "") -> dict[int, str]:
    """Tasks of one model, as `grade_logprobs`.

    Args:
        note: what is to be said of each.
    """
    refused: dict[int, str] = {}
    for asked in (Asked(*task) for task in tasks):
        try:
            name = asked.name or str(asked.number)
            mark = examine(lm, asked.card, asked.uri, lambda graded, name=name: marks.keep(model, name, graded))
        except RaylmError as refusal:
            refused[asked.number] = " ".join(str(refusal).split())
            # what was left out of it is nothing that is to be said of the next one
            lm.notes()
        else:
            marks.write(model, asked.number, mark._replace(note="; ".join(filter(None, [mark.note, note]))))
    return refused
