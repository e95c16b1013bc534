"""Takes rows in any of TRL's dataset shapes, leaves documents, dialogues, pairs and prompts."""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Message = dict[str, str]
Dialogue = list[Message]

COLUMNS = ("id", "source", "start", "end", "text", "record")
TRUTHS = ("answer", "truth", "ground_truth", "solution")

_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
}
_SURROGATE = re.compile("[\ud800-\udfff]")
# a row with one of these is structured: it is kept whole, and `text` is only its readable form
_STRUCTURED = ("messages", "conversations", "prompt", "chosen", "instruction")


class Rejected(NamedTuple):
    """A row that could not be read. `where` is a place to look at, `columns` what the row had instead."""

    reason: str
    where: str
    columns: tuple[str, ...] = ()


def schema() -> pa.Schema:
    """Columns of Documents. `large_string`: a batch of long documents passes the 2 GB of 32-bit offsets."""
    import pyarrow as pa

    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("text", pa.large_string()),
            ("record", pa.large_string()),
        ]
    )


def document(source: str, start: int, end: int, text: str, record: Any = None) -> dict[str, Any]:
    """A Documents row; its id is a hash of where it came from, so the same row has the same id in every run."""
    stem = hashlib.blake2b(f"{source}\0{start}\0{end}".encode(), digest_size=12).hexdigest()
    kept = None if record is None else json.dumps(record, ensure_ascii=False, sort_keys=True, default=str)
    return {"id": stem, "source": source, "start": start, "end": end, "text": text, "record": kept}


def read_row(row: Any, text_column: str | None, source: str, start: int, end: int) -> dict[str, Any] | Rejected:
    """A Documents row from a raw one.

    Args:
        text_column: the column that is the text; None takes a structured row (TRL's shapes) whole, and else `text`.
    """
    where = f"{source}:{start}"
    if not isinstance(row, Mapping):
        return Rejected("not_an_object", where)
    structured = text_column is None and any(row.get(key) is not None for key in _STRUCTURED)
    column = text_column or "text"
    try:
        text = as_text(row) if structured else row.get(column)
    except DataError as cause:
        return Rejected(cause.what, where, tuple(map(str, row)))
    if text is None and column not in row:
        return Rejected("missing_column", where, tuple(map(str, row)))
    if not isinstance(text, str) and text is not None:
        return Rejected("text_is_no_string", where, tuple(map(str, row)))
    if not text or not text.strip():
        return Rejected("empty", where)
    # JSON may spell half a surrogate pair, which no UTF-8 file can hold
    if not text.isascii() and _SURROGATE.search(text):
        return Rejected("invalid_unicode", where)
    return document(source, start, end, text, row if structured else None)


def as_text(row: Mapping[str, Any]) -> str:
    """Readable text of a row of any shape. Raises DataError naming what is missing."""
    if isinstance(row.get("text"), str):
        return row["text"]
    if row.get("prompt") is not None and all(row.get(key) is None for key in ("completion", "chosen", "messages")):
        turns = as_prompt(row)[0]
    else:
        turns = as_dialogue(row)
    return "\n\n".join(turn["content"] for turn in turns)


def as_dialogue(row: Mapping[str, Any]) -> Dialogue:
    """Messages of a row: `messages`, ShareGPT `conversations`, Alpaca, prompt + completion, or prompt + chosen.

    Raises:
        DataError: no such columns, or a column of another shape; `what` is short enough to be counted by.
    """
    if row.get("messages") is not None:
        return _messages(row["messages"], "messages")
    if row.get("conversations") is not None:
        return _messages(row["conversations"], "conversations")
    if row.get("instruction") is not None and row.get("output") is not None:
        asked = "\n\n".join(str(row[key]) for key in ("instruction", "input") if row.get(key))
        return [_turn("user", asked), _turn("assistant", row["output"])]
    for answer in ("completion", "chosen"):
        if row.get(answer) is not None:
            prompt = _messages(row["prompt"], "prompt", "user") if row.get("prompt") is not None else []
            turns = prompt + _messages(row[answer], answer, "assistant")
            if not turns or (not prompt and isinstance(row[answer], str)):
                raise _missing("prompt", row)
            return turns
    raise _missing("messages", row)


def as_pair(row: Mapping[str, Any]) -> tuple[Dialogue, Dialogue, Dialogue]:
    """(prompt, chosen, rejected); without a `prompt` column it is what chosen and rejected begin with alike."""
    for column in ("chosen", "rejected"):
        if row.get(column) is None:
            raise _missing(column, row)
    chosen = _messages(row["chosen"], "chosen", "assistant")
    rejected = _messages(row["rejected"], "rejected", "assistant")
    if row.get("prompt") is not None:
        return _messages(row["prompt"], "prompt", "user"), chosen, rejected
    shared = 0
    while shared < min(len(chosen), len(rejected)) - 1 and chosen[shared] == rejected[shared]:
        shared += 1
    if not shared:
        raise _missing("prompt", row)
    return chosen[:shared], chosen[shared:], rejected[shared:]


def as_prompt(row: Mapping[str, Any]) -> tuple[Dialogue, str | None]:
    """(messages that wait for an answer, truth if the row has one). Falls back on a dialogue less its last answer."""
    if row.get("prompt") is not None:
        prompt = _messages(row["prompt"], "prompt", "user")
    else:
        prompt = as_dialogue(row)
        while prompt and prompt[-1]["role"] == "assistant":
            prompt = prompt[:-1]
    if not prompt:
        raise _missing("prompt", row)
    truth = next((row[key] for key in TRUTHS if row.get(key) is not None), None)
    return prompt, truth if truth is None or isinstance(truth, str) else json.dumps(truth, ensure_ascii=False)


def is_held_out(id: str, share: float) -> bool:
    """Whether a document is held out: by its id alone, so in every stage and run alike.

    What stands behind a `-` in an id is left out: several rows about one thing fall on the same side.
    """
    stem = id.partition("-")[0]
    point = int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=8, person=b"held_out").digest(), "big")
    return point < share * 2**64


def _messages(value: Any, column: str, role: str | None = None) -> Dialogue:
    if isinstance(value, str) and role:
        return [_turn(role, value)]
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"wrong_shape: {column}", next=f"{column} must be a list of messages with role and content")
    return [_message(turn, column) for turn in value]


def _message(turn: Any, column: str) -> Message:
    if isinstance(turn, Mapping):
        role, content = turn.get("role"), turn.get("content")
        if role is None and turn.get("from") in _SHAREGPT:
            role, content = _SHAREGPT[turn["from"]], turn.get("value")
        if isinstance(role, str) and isinstance(content, str):
            return {"role": role, "content": content}
    raise DataError(f"wrong_shape: {column}", next=f"a message of {column} needs role and content, or from and value")


def _turn(role: str, content: Any) -> Message:
    return {"role": role, "content": str(content)}


def _missing(column: str, row: Mapping[str, Any]) -> DataError:
    return DataError(f"missing_column: {column}", next=f"the row has: {', '.join(map(str, row)) or 'nothing'}")
