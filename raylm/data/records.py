"""Takes rows in any of TRL's dataset shapes, leaves documents, dialogues, pairs and prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import DataError

if TYPE_CHECKING:
    import pyarrow as pa

Message = dict[str, str]
Dialogue = list[Message]

COLUMNS = ("id", "source", "start", "end", "text", "record", "meta")
TRUTHS = ("answer", "truth", "ground_truth", "solution")

_SHAREGPT = {
    "human": "user",
    "user": "user",
    "gpt": "assistant",
    "model": "assistant",
    "assistant": "assistant",
    "system": "system",
    "tool": "tool",
    "observation": "tool",
}
# a row with one of these is structured: it is kept whole, and `text` is only its readable form
STRUCTURED = ("messages", "conversations", "prompt", "chosen", "instruction")
_STRUCTURED = frozenset(STRUCTURED)
# what belongs to a structured row's shape, and so is no metadata of it
_SHAPE = _STRUCTURED | {"completion", "rejected", "label", "input", "output", "text", *TRUTHS}
# keys of a message that carry content which role and content do not hold: half a message would be another one
_UNREAD = (
    "tool_calls",
    "function_call",
    "reasoning_content",
    "reasoning",
    "thinking",
    "name",
    "image",
    "images",
    "audio",
    "video",
    "documents",
)
_PLAIN = (str, int, bool)


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
            ("meta", pa.large_string()),
        ]
    )


def id_of(source: str, start: int, end: int) -> str:
    """24 hex digits of where a row came from, so the same row has the same id in every run."""
    return hashlib.blake2b(f"{source}\0{start}\0{end}".encode(), digest_size=12).hexdigest()


def meta_of(row: Mapping[str, Any], without: Container[str]) -> str | None:
    """The row's scalar columns, less those in `without`, as a JSON object with sorted keys; None when there are none.

    Nested values, nulls and numbers that JSON has no form for are left out. Half a surrogate pair becomes U+FFFD: the text
    of the row is sound, and no UTF-8 file could hold it.
    """
    import orjson

    kept = {
        key: value
        for key, value in row.items()
        if key not in without and (type(value) in _PLAIN or (type(value) is float and isfinite(value)))
    }
    if not kept:
        return None
    try:
        return orjson.dumps(kept, option=orjson.OPT_SORT_KEYS).decode()
    except TypeError:
        # an integer above 64 bits, or a surrogate
        text = json.dumps(kept, ensure_ascii=False, sort_keys=True, separators=(",", ":"))
        return text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")


def document(source: str, start: int, end: int, text: str, record: Any = None, meta: str | None = None) -> dict[str, Any]:
    """A Documents row. `record`: the raw row where it is structured; `meta`: what `meta_of` leaves."""
    kept = None if record is None else json.dumps(record, ensure_ascii=False, sort_keys=True, default=str)
    id = id_of(source, start, end)
    return {"id": id, "source": source, "start": start, "end": end, "text": text, "record": kept, "meta": meta}


def is_structured(row: Mapping[str, Any]) -> bool:
    """Whether the row has one of TRL's shapes beyond plain text."""
    return not _STRUCTURED.isdisjoint(row) and any(row.get(key) is not None for key in STRUCTURED)


def read_row(row: Any, text_column: str | None, source: str, start: int, end: int) -> dict[str, Any] | Rejected:
    """A Documents row from a raw one.

    Args:
        text_column: the column that is the text; None takes a structured row (TRL's shapes) whole, and else `text`.
    """
    where = f"{source}:{start}"
    if type(row) is not dict and not isinstance(row, Mapping):
        return Rejected("not_an_object", where)
    structured = text_column is None and is_structured(row)
    column = text_column or "text"
    try:
        text = as_text(row) if structured else row.get(column)
    except DataError as cause:
        return Rejected(cause.what, where, tuple(map(str, row)))
    if text is None and column not in row:
        return Rejected("missing_column", where, tuple(map(str, row)))
    if not isinstance(text, str) and text is not None:
        return Rejected("text_is_no_string", where, tuple(map(str, row)))
    if not text or text.isspace():
        return Rejected("empty", where)
    if not structured:
        return document(source, start, end, text, None, meta_of(row, (column,))) if _is_utf8(text) else _not_unicode(where)
    made = document(source, start, end, text, row, meta_of(row, _SHAPE))
    return made if _is_utf8(text) and _is_utf8(made["record"]) else _not_unicode(where)


def _is_utf8(text: str) -> bool:
    """JSON may spell half a surrogate pair, which no UTF-8 file can hold."""
    if not text.isascii():
        try:
            text.encode()
        except UnicodeEncodeError:
            return False
    return True


def _not_unicode(where: str) -> Rejected:
    return Rejected("invalid_unicode", where)


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
            turns = _messages(row[answer], answer, "assistant")
            if prompt or not isinstance(row[answer], str):
                return turns if answer == "chosen" and _repeats(row.get("prompt"), turns) else prompt + turns
            if answer == "chosen" and isinstance(row.get("rejected"), str):
                asked, chosen, _ = as_pair(row)
                return asked + chosen
            raise _missing("prompt", row)
    raise _missing("messages", row)


def as_pair(row: Mapping[str, Any]) -> tuple[Dialogue, Dialogue, Dialogue]:
    """(prompt, chosen, rejected); without a `prompt` column it is what chosen and rejected begin with alike.

    As `trl.data_utils.maybe_extract_prompt` has it: a plain `prompt` beside conversational answers repeats what they
    begin with, and of plain answers the prompt is what their characters share, less a space at its end.
    """
    for column in ("chosen", "rejected"):
        if row.get(column) is None:
            raise _missing(column, row)
    prompt, answers = row.get("prompt"), (row["chosen"], row["rejected"])
    plain = all(isinstance(answer, str) for answer in answers)
    if plain and prompt is None:
        if not all(answers):
            raise _missing("prompt", row)
        shared = _shared(*answers)
        shared -= answers[0][:shared].endswith(" ") and answers[0][shared] != answers[1][shared]
        if not shared:
            raise _missing("prompt", row)
        prompt, answers = answers[0][:shared], tuple(answer[shared:] for answer in answers)
    chosen, rejected = (
        _messages(answer, name, "assistant") for answer, name in zip(answers, ("chosen", "rejected"), strict=True)
    )
    if prompt is not None and not _repeats(prompt, chosen):
        return _messages(prompt, "prompt", "user"), chosen, rejected
    shared = _shared(chosen, rejected)
    if not shared:
        raise _missing("prompt", row)
    return chosen[:shared], chosen[shared:], rejected[shared:]


def as_unpaired(row: Mapping[str, Any]) -> tuple[Dialogue, Dialogue, bool]:
    """(prompt, completion, label): an answer of which is known whether it is wanted. `label` is a bool, nothing like one."""
    for column in ("prompt", "completion", "label"):
        if row.get(column) is None:
            raise _missing(column, row)
    if not isinstance(row["label"], bool):
        raise DataError("wrong_shape: label", next="label must be true or false")
    return _messages(row["prompt"], "prompt", "user"), _messages(row["completion"], "completion", "assistant"), row["label"]


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


def _repeats(prompt: Any, answer: Dialogue) -> bool:
    """Whether a conversational answer begins with the question, and a plain `prompt` only says it once more."""
    return isinstance(prompt, str) and answer[0]["role"] != "assistant"


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items both begin with, less than all of the shorter one: an answer is left of each."""
    most = min(len(one), len(other)) - 1
    return next((at for at in range(most) if one[at] != other[at]), max(most, 0))


def _messages(value: Any, column: str, role: str | None = None) -> Dialogue:
    if isinstance(value, str) and role:
        return [_turn(role, value)]
    if not isinstance(value, (list, tuple)) or not value:
        raise DataError(f"wrong_shape: {column}", next=f"{column} must be a list of messages with role and content")
    return [_message(turn, column) for turn in value]


def _message(turn: Any, column: str) -> Message:
    if isinstance(turn, Mapping):
        unread = next((key for key in _UNREAD if turn.get(key)), None)
        if unread:
            raise DataError(f"unread_key: {column}.{unread}", next="a message is its role and content; nothing else is rendered")
        role, content = turn.get("role"), turn.get("content")
        if role is None and turn.get("from") in _SHAREGPT:
            role, content = _SHAREGPT[turn["from"]], turn.get("value")
        if isinstance(content, list) and content and all(_is_text_part(part) for part in content):
            content = "".join(part["text"] for part in content)
        if isinstance(role, str) and isinstance(content, str):
            return {"role": role, "content": content}
    raise DataError(f"wrong_shape: {column}", next=f"a message of {column} needs role and content, or from and value")


def _is_text_part(part: Any) -> bool:
    """A part of a multimodal message that is text alone."""
    return isinstance(part, Mapping) and part.get("type") == "text" and isinstance(part.get("text"), str)


def _turn(role: str, content: Any) -> Message:
    return {"role": role, "content": str(content)}


def _missing(column: str, row: Mapping[str, Any]) -> DataError:
    return DataError(f"missing_column: {column}", next=f"the row has: {', '.join(map(str, row)) or 'nothing'}")
