"""Rows in any of TRL's dataset shapes as documents, dialogues, pairs and prompts."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Container, Iterator, Mapping, Sequence
from math import isfinite
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import DataError
from raylm.data.mapping import Columns, columns_of
from raylm.data.messages import Dialogue, for_template, messages, readable, string
from raylm.data.tools import ORDERED, TOOLS, check_answers, in_order, tools_of
from raylm.data.unread_columns import EMPTY, QUESTION, SYSTEM, check_columns, possible_question

if TYPE_CHECKING:
    import pyarrow as pa

COLUMNS = ("id", "source", "start", "end", "text", "record", "meta")
GROUND_TRUTHS = ("answer", "truth", "ground_truth", "solution")

# a row with one of these is structured: it is kept whole, and `text` is only its readable form
STRUCTURED = ("messages", "conversations", "prompt", "chosen", "instruction")
_STRUCTURED = frozenset(STRUCTURED)
# what belongs to a structured row's shape, and so is no metadata of it
_SHAPE = _STRUCTURED | {"completion", "rejected", "label", "input", "output", "text", *GROUND_TRUTHS}
_PLAIN = (str, int, bool)
_DEPTH = 3


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

    Scalars inside objects have keys such as `metadata.url`. Lists, nulls and numbers that JSON has no form for are left out.
    Half a surrogate pair becomes U+FFFD: the text of the row is sound, and no UTF-8 file could hold it.
    """
    import orjson

    kept = {
        key: value
        for key, value in _leaves({key: value for key, value in row.items() if key not in without})
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


def _leaves(row: Mapping[str, Any], before: str = "") -> Iterator[tuple[str, Any]]:
    """(dotted key, value) of what is no object, three objects deep."""
    for key, value in row.items():
        if type(value) is dict:
            if before.count(".") < _DEPTH:
                yield from _leaves(value, f"{before}{key}.")
        else:
            yield f"{before}{key}", value


def document(source: str, start: int, end: int, text: str, record: Any = None, meta: str | None = None) -> dict[str, Any]:
    """A Documents row. `record`: the raw row where it is structured; `meta`: what `meta_of` leaves."""
    kept = None if record is None else record_json(record)
    id = id_of(source, start, end)
    return {"id": id, "source": source, "start": start, "end": end, "text": text, "record": kept, "meta": meta}


def record_json(record: Any) -> str:
    """A raw row as JSON with sorted keys; those within tools and calls as they stand, as templates write them in that order."""
    text = json.dumps(record, ensure_ascii=False, sort_keys=True, default=str)
    if not any(f'"{key}": ' in text for key in ORDERED):
        return text
    return json.dumps(in_order(record), ensure_ascii=False, default=str)


def is_structured(row: Mapping[str, Any]) -> bool:
    """Whether the row has one of TRL's shapes beyond plain text."""
    return not _STRUCTURED.isdisjoint(row) and any(row.get(key) is not None for key in STRUCTURED)


def read_row(
    row: Any, text_column: str | None, source: str, start: int, end: int, columns: Columns | None = None
) -> dict[str, Any] | Rejected:
    """A Documents row from a raw one.

    Args:
        text_column: the column that is the text; None takes a structured row (TRL's shapes) whole, and else `text`.
        columns: how the row is mapped first; the record is then what it was mapped to.
    """
    where = f"{source}:{start}"
    if type(row) is not dict and not isinstance(row, Mapping):
        return Rejected("not_an_object", where)
    if columns is not None:
        return _read_mapped(row, columns, source, start, end)
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
    result = document(source, start, end, text, row, meta_of(row, _SHAPE))
    return result if _is_utf8(text) and _is_utf8(result["record"]) else _not_unicode(where)


def _read_mapped(row: Mapping[str, Any], columns: Columns, source: str, start: int, end: int) -> dict[str, Any] | Rejected:
    where = f"{source}:{start}"
    try:
        made = columns.row(row)
        text, record = (made["text"], None) if columns.text else (as_text(made), made)
    except DataError as cause:
        return Rejected(cause.what, where, columns_of(row))
    if not text.strip():
        return Rejected("empty", where)
    result = document(source, start, end, text, record, meta_of(row, columns.read_names(row) | {"text"}))
    return result if _is_utf8(text) and _is_utf8(result["record"] or "") else _not_unicode(where)


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
    bare = all(row.get(key) is None for key in ("completion", "chosen", "messages", "conversations", "output"))
    turns = as_prompt(row)[0] if bare else as_dialogue(row)
    return "\n\n".join(readable(turn) for turn in turns)


def as_dialogue(row: Mapping[str, Any]) -> Dialogue:
    """Messages of a row: `messages`, ShareGPT `conversations`, Alpaca, prompt + completion, or prompt + chosen.

    A turn that the row excludes from training has `weight` 0.

    Raises:
        DataError: no such columns, a column of another shape, or one that says what the turns do not (`check_columns`);
            `what` is short enough to be counted by.
    """
    for column in ("messages", "conversations"):
        if row.get(column) is not None:
            return _checked(row, _led(row, messages(row[column], column)), (column,))
    if row.get("instruction") is not None and row.get("output") is not None:
        answer = [{"role": "assistant", "content": string(row["output"], "output")}]
        return _checked(row, _led(row, _prompt(row, "instruction") + answer), ("instruction", "input", "output", "history"))
    for column in ("completion", "chosen"):
        if row.get(column) is not None:
            source = _source(row)
            if source is None and isinstance(row[column], str):
                if column == "chosen" and isinstance(row.get("rejected"), str):
                    prompt, chosen, _ = as_pair(row)
                    return prompt + chosen
                raise _missing("prompt", row)
            answer = messages(row[column], column, "assistant")
            if column == "chosen" and _repeats(row, source, answer):
                return _checked(row, _led(row, answer), (column, "prompt"))
            return _checked(row, _led(row, _prompt(row, source) + answer), (column, *_read(source)))
    raise _missing("messages", row)


def as_pair(row: Mapping[str, Any]) -> tuple[Dialogue, Dialogue, Dialogue]:
    """(prompt, chosen, rejected). The prompt is what is asked in `prompt`, `instruction` (Alpaca) or `question`, or in
    `messages` that end before the answer; without any of them, what chosen and rejected begin with alike.

    As `trl.data_utils.maybe_extract_prompt` has it: a plain `prompt` beside conversational answers repeats what they
    begin with, and of plain answers the prompt is what their characters share, less a space at its end. That is done only
    where no other column may hold the question.
    """
    for column in ("chosen", "rejected"):
        if row.get(column) is None:
            raise _missing(column, row)
    source, answers = _source(row), (row["chosen"], row["rejected"])
    dialogue_column = next((column for column in ("messages", "conversations") if row.get(column) is not None), None)
    if source is None and dialogue_column is None and all(isinstance(answer, str) for answer in answers):
        return _parted(row)
    chosen, rejected = (messages(answer, name, "assistant") for answer, name in zip(answers, ("chosen", "rejected"), strict=True))
    read = ["chosen", "rejected", *_read(source)]
    if source is not None and not _repeats(row, source, chosen):
        prompt = _prompt(row, source)
    elif dialogue_column is not None and chosen[0]["role"] == "assistant":
        prompt = messages(row[dialogue_column], dialogue_column)
        if prompt[-1]["role"] == "assistant":
            raise _missing("prompt", row)
    else:
        shared = _shared(chosen, rejected)
        prompt, chosen, rejected, read = chosen[:shared], chosen[shared:], rejected[shared:], ["chosen", "rejected", "prompt"]
    if not prompt:
        raise _missing("prompt", row)
    prompt = _led(row, prompt)
    _checked(row, [*prompt, *chosen, *rejected], read, ([*prompt, *chosen], [*prompt, *rejected]))
    return for_template(prompt), _whole(chosen, "chosen"), _whole(rejected, "rejected")


def as_unpaired(row: Mapping[str, Any]) -> tuple[Dialogue, Dialogue, bool]:
    """(prompt, completion, label): an answer with a label whether it is good; `label` must be a bool."""
    source = _source(row)
    for column in (source or "prompt", "completion", "label"):
        if row.get(column) is None:
            raise _missing(column, row)
    if not isinstance(row["label"], bool):
        raise DataError("wrong_shape: label", next="label must be true or false")
    prompt, completion = _led(row, _prompt(row, source)), messages(row["completion"], "completion", "assistant")
    _checked(row, prompt + completion, ("completion", "label", *_read(source)))
    return for_template(prompt), _whole(completion, "completion"), row["label"]


def as_prompt(row: Mapping[str, Any]) -> tuple[Dialogue, str | None]:
    """(messages that wait for an answer, ground_truth if the row has one). Falls back on a dialogue less its last answer."""
    source = _source(row)
    if source != "prompt" and any(row.get(key) is not None for key in ("messages", "conversations", "chosen", "completion")):
        source = None
    if source is not None:
        prompt = _checked(row, _led(row, _prompt(row, source)), _read(source))
    else:
        prompt = as_dialogue(row)
        while prompt and prompt[-1]["role"] == "assistant":
            prompt = prompt[:-1]
    if not prompt:
        raise _missing("prompt", row)
    ground_truth = next((row[key] for key in GROUND_TRUTHS if row.get(key) is not None), None)
    return for_template(prompt), ground_truth if ground_truth is None or isinstance(ground_truth, str) else json.dumps(
        ground_truth, ensure_ascii=False
    )


def is_held_out(id: str, share: float) -> bool:
    """Whether a document is held out: by its id alone, so in every stage and run alike.

    What stands behind a `-` in an id is left out: several rows about one thing fall on the same side.
    """
    stem = id.partition("-")[0]
    point = int.from_bytes(hashlib.blake2b(stem.encode(), digest_size=8, person=b"held_out").digest(), "big")
    return point < share * 2**64


def _source(row: Mapping[str, Any]) -> str | None:
    """The column that holds the prompt, where no dialogue does."""
    return next((column for column in ("prompt", "instruction", *QUESTION) if row.get(column) is not None), None)


def _read(source: str | None) -> tuple[str, ...]:
    """The columns that `_asked` reads."""
    return () if source is None else (source, "history", "input") if source == "instruction" else (source, "history")


def _prompt(row: Mapping[str, Any], source: str | None) -> Dialogue:
    """The prompt, preceded by the questions and answers of `history` (as in LLaMA-Factory, those answers are trained on too)."""
    if source is None:
        return []
    if source == "prompt":
        turns = messages(row["prompt"], "prompt", "user")
    else:
        parts = [
            string(row[key], key) for key in (source, "input") if row.get(key) and (key == source or source == "instruction")
        ]
        if not "".join(parts).strip():
            raise _missing(source, row)
        turns = [{"role": "user", "content": "\n\n".join(parts)}]
    before, history = [], row.get("history")
    if history not in EMPTY:
        if isinstance(row[source], (list, tuple)):
            raise DataError("unread_key: history", next="write the history into the messages")
        shaped = isinstance(history, (list, tuple)) and all(
            isinstance(pair, (list, tuple)) and len(pair) == 2 for pair in history
        )
        if not shaped:
            raise DataError("wrong_shape: history", next="history must be a list of [question, answer]")
        for question, answer in history:
            before += [{"role": "user", "content": string(question, "history")}]
            before += [{"role": "assistant", "content": string(answer, "history")}]
    return before + turns


def _led(row: Mapping[str, Any], turns: Dialogue) -> Dialogue:
    """The turns behind the row's system prompt, if it has one of its own."""
    found = {column: string(row[column], column) for column in SYSTEM if row.get(column) not in (None, "")}
    led = turns[0]["content"] if turns and turns[0]["role"] in ("system", "developer") else None
    for column, text in found.items():
        if led is not None and text.strip() != led.strip():
            raise DataError(f"unread_key: {column}", next="a row must have one system prompt")
        if led is None:
            led, turns = text, [{"role": "system", "content": text}, *turns]
    return turns


def _checked(
    row: Mapping[str, Any], turns: Dialogue, read: Sequence[str], dialogues: Sequence[Dialogue] | None = None
) -> Dialogue:
    """The turns, of which `dialogues` are made (None: they are one). Raises DataError where something is not read, or no tool."""
    check_columns(row, (*read, *SYSTEM, *TOOLS), turns)
    tools_of(row)
    for dialogue in [turns] if dialogues is None else dialogues:
        check_answers(dialogue)
    return turns


def _whole(turns: Dialogue, column: str) -> Dialogue:
    """An answer that is judged as a whole: no turn of it may be excluded from training."""
    if any("weight" in turn and turn["role"] == "assistant" for turn in turns):
        raise DataError(f"unread_key: {column}.weight", next="an answer that is compared counts whole")
    return for_template(turns)


def _parted(row: Mapping[str, Any]) -> tuple[Dialogue, Dialogue, Dialogue]:
    """A pair of plain answers that begin with the prompt."""
    answers = (row["chosen"], row["rejected"])
    if not all(answers) or possible_question(row, ("chosen", "rejected", *SYSTEM)):
        raise _missing("prompt", row)
    shared = _shared(*answers)
    shared -= answers[0][:shared].endswith(" ") and answers[0][shared] != answers[1][shared]
    if not shared:
        raise _missing("prompt", row)
    prompt = _led(row, [{"role": "user", "content": answers[0][:shared]}])
    chosen, rejected = ([{"role": "assistant", "content": answer[shared:]}] for answer in answers)
    _checked(row, [*prompt, *chosen, *rejected], ("chosen", "rejected"))
    return prompt, chosen, rejected


def _repeats(row: Mapping[str, Any], source: str | None, answer: Dialogue) -> bool:
    """Whether a conversational answer begins with the question, and a plain column only says it once more."""
    return source is not None and isinstance(row[source], str) and answer[0]["role"] != "assistant"


def _shared(one: Sequence[Any], other: Sequence[Any]) -> int:
    """How many items both begin with, less than all of the shorter one: an answer is left of each."""
    most = min(len(one), len(other)) - 1
    return next((at for at in range(most) if one[at] != other[at]), max(most, 0))


def _missing(column: str, row: Mapping[str, Any]) -> DataError:
    return DataError(f"missing_column: {column}", next=f"the row has: {', '.join(map(str, row)) or 'nothing'}")
