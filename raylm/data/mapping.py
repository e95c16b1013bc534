"""Column mapping: any row as one of the shapes that are read, by the names of its columns, paths into them, or templates.

row --name | path | jinja template--> {prompt, completion, ...}; what of the row is not read is checked as in any other row
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterator, Mapping
from typing import Any

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.data.messages import string
from raylm.data.row_path import decoded, paths_of, read_path, steps_of
from raylm.data.row_template import is_template, template_of
from raylm.data.unread_columns import check_columns

_TARGETS = (
    "text", "messages", "prompt", "completion", "chosen", "rejected", "label", "system", "history", "tools",
    "reasoning_content", "ground_truth",
)  # fmt: skip
# without these there is nothing to learn; a row may have no system prompt, history, tools, thoughts or ground truth
_NEEDED = _TARGETS[:7]
_SPOKEN = ("prompt", "completion", "chosen", "rejected")
MISSING = "missing_column: "
_TRUE, _FALSE = ("true", "1", "yes"), ("false", "0", "no")


class Columns(Config):
    """What a row has, by the names that are read here: `columns = {prompt = "question", completion = "answer"}`. A value is the
    name of a column, a path into it (`data.turns[0].text`), or a jinja template over the row
    (`{{ instruction }}\\n{{ input }}`; a column whose name is no identifier is `{{ row["my column"] }}`)."""

    text: str | None = Field(default=None, min_length=1)
    """A plain text, to pretrain on; it stands alone."""
    messages: str | None = Field(default=None, min_length=1)
    """A list of messages, or its JSON text."""
    prompt: str | None = Field(default=None, min_length=1)
    """What is asked: a text, or messages, also as JSON text."""
    completion: str | None = Field(default=None, min_length=1)
    """The answer to `prompt`, as it may be written."""
    chosen: str | None = Field(default=None, min_length=1)
    """The better one of two answers."""
    rejected: str | None = Field(default=None, min_length=1)
    """The worse one of two answers."""
    label: str | None = Field(default=None, min_length=1)
    """Whether `completion` is a good answer: true or false, 1 or 0, also as text."""
    system: str | None = Field(default=None, min_length=1)
    """The system prompt. Rows where it is null or empty have none."""
    history: str | None = Field(default=None, min_length=1)
    """Earlier turns, a list of [question, answer], or its JSON text. Rows where it is null or empty have none."""
    tools: str | None = Field(default=None, min_length=1)
    """JSON schemas of the tools that may be called, or their JSON text. Rows where it is null or empty have none."""
    reasoning_content: str | None = Field(default=None, min_length=1)
    """What is thought before `completion`, which then must be a text. Rows where it is null or empty have none."""
    ground_truth: str | None = Field(default=None, min_length=1)
    """What rewards and evaluations compare an answer with. Rows where it is null or empty have none."""
    ignore: list[str] = []
    """Columns that are not read although rows are refused for them: their names (system, context, tools, images, weight ...)
    say that what is learned would change with them."""

    @model_validator(mode="after")
    def _is_a_shape(self) -> Columns:
        has = {target for target in _TARGETS if getattr(self, target) is not None}
        if not has & {"text", "messages", "prompt", "chosen"}:
            raise ValueError("columns name nothing to learn: one of text, messages, prompt or chosen is needed")
        if "text" in has and has != {"text"}:
            raise ValueError("columns.text is a plain text and stands alone; a question and its answer are prompt and completion")
        if "messages" in has and (more := has & {"prompt", "completion", "history", "label", "reasoning_content"}):
            raise ValueError(f"columns.messages is a whole dialogue: {min(more)} cannot stand beside it")
        for name, needed in (
            ("completion", "prompt"), ("label", "completion"), ("reasoning_content", "completion"), ("history", "prompt"),
            ("rejected", "chosen"), ("chosen", "rejected"),
        ):  # fmt: skip
            if name in has and needed not in has:
                raise ValueError(f"columns.{name} needs columns.{needed}")
        if {"completion", "chosen"} <= has:
            raise ValueError("columns name both a completion and chosen: a row is one answer, or two that are compared")
        return self

    @model_validator(mode="after")
    def _can_be_read(self) -> Columns:
        # a machine that only plans may have no jinja2: the stage's workers have it
        with contextlib.suppress(ImportError):
            for target, source in self._named():
                try:
                    template_of(source) if is_template(source) else steps_of(source)
                except DataError as cause:
                    raise ValueError(f"columns.{target}: {cause.what}") from cause
        return self

    def row(self, raw: Mapping[str, Any]) -> dict[str, Any]:
        """The row as it is read: one of the shapes of `raylm.data.records`, or only `text`.

        Raises:
            DataError: missing_column, empty_column, wrong_shape, template_fails, template_prints; `unread_key` where a column
                is neither read nor ignored although it would change what is learned.
        """
        made: dict[str, Any] = {}
        for target, source in self._named():
            found = template_of(source).render(raw) if is_template(source) else read_path(raw, source)
            if found is None or found in ([], {}) or (isinstance(found, str) and not found.strip()):
                if target in _NEEDED:
                    raise DataError(f"empty_column: {target if is_template(source) else source}")
                continue
            made[target] = _typed(target, found)
        if thought := made.pop("reasoning_content", None):
            if not isinstance(made["completion"], str):
                raise DataError("unread_key: reasoning_content", next="messages have their own: map it with a text alone")
            made["completion"] = [{"role": "assistant", "content": made["completion"], "reasoning_content": thought}]
        if self.text is None:
            self._check_rest(raw, made)
        return made

    def read_names(self, raw: Mapping[str, Any]) -> set[str]:
        """The columns that are read, an object's key as `data.question`."""
        names: set[str] = set()
        for _, source in self._named():
            if is_template(source):
                read = template_of(source).names
                names |= set(raw) if read is None else read
            else:
                names.add(source if source in raw else ".".join(step for step in steps_of(source) if isinstance(step, str)))
        return names

    def tools_column(self) -> str | None:
        """The column in which the tools lie; None where a template makes them, or there are none."""
        return None if self.tools is None or is_template(self.tools) else str(steps_of(self.tools)[0])

    def _named(self) -> Iterator[tuple[str, str]]:
        for target in _TARGETS:
            if source := getattr(self, target):
                yield target, source

    def _check_rest(self, raw: Mapping[str, Any], made: dict[str, Any]) -> None:
        said = [{"role": "", "content": text} for text in _strings(made)]
        for path, value in _rest(raw, self.read_names(raw) | set(self.ignore)):
            try:
                check_columns({path.rpartition(".")[2] if path not in raw else path: value}, (), said)
            except DataError as cause:
                remedy = f'map {path}, put it into a template, or say that it is not wanted: columns.ignore = ["{path}"]'
                raise DataError(f"unread_key: {path}", next=remedy) from cause


def columns_of(raw: Mapping[str, Any]) -> tuple[str, ...]:
    """What may be mapped of a row, for messages."""
    return tuple(paths_of(raw))


def _typed(target: str, value: Any) -> Any:
    """The value as the shapes have it. Raises DataError(wrong_shape) where it is none that they have."""
    if target == "label":
        word = str(value).strip().lower()
        if isinstance(value, float) or word not in (*_TRUE, *_FALSE):
            raise DataError("wrong_shape: label", next="label must be true or false, 1 or 0")
        return word in _TRUE
    if target in ("messages", "history") and isinstance(value, str):
        try:
            return json.loads(value)
        except ValueError as cause:
            raise DataError(f"wrong_shape: {target}", next=f"a text for {target} must be JSON: {cause}") from cause
    if target in _SPOKEN and isinstance(value, str) and _are_messages(found := decoded(value)):
        return found
    if target in ("text", "system", "reasoning_content") or not isinstance(value, (list, tuple, Mapping)):
        return value if target in ("tools", "ground_truth") else string(value, target)
    return value


def _are_messages(value: Any) -> bool:
    """Whether it is a list of messages: a text that is its JSON (a CSV has no other form) would be learned with its braces."""
    return (
        isinstance(value, list)
        and bool(value)
        and all(isinstance(one, dict) and (({"role", "content"} <= set(one)) or ({"from", "value"} <= set(one))) for one in value)
    )


def _rest(value: Mapping[str, Any], read: set[str], before: str = "") -> Iterator[tuple[str, Any]]:
    """(path, value) of what is not in `read`; of an object of which a part is read, its other keys."""
    for key, inner in value.items():
        path = f"{before}{key}"
        if path in read:
            continue
        if not any(name.startswith(f"{path}.") for name in read):
            yield path, inner
            continue
        inner = decoded(inner) if isinstance(inner, str) else inner
        for part in inner if isinstance(inner, (list, tuple)) else [inner]:
            if isinstance(part, Mapping):
                yield from _rest(part, read, f"{path}.")


def _strings(value: Any) -> Iterator[str]:
    if isinstance(value, str):
        yield value
    elif isinstance(value, Mapping):
        for inner in value.values():
            yield from _strings(inner)
    elif isinstance(value, (list, tuple)):
        for inner in value:
            yield from _strings(inner)
