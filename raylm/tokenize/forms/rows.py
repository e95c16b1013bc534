"""What all forms share: the record of rows they return, the rows of each document, the document index."""

from __future__ import annotations

import json
import math
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import DataError
from raylm.data.messages import Dialogue
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.form import LEFT_OUT, OVERLONG
from raylm.tokenize.forms.overlong import shortened
from raylm.tokenize.forms.template import Tools

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

    from raylm.tokenize.packing import Layout


class FormRows(NamedTuple):
    """Rows of one shard and split. `sums` are counts that add up over shards."""

    table: pa.Table
    dropped: Counter[str]
    sums: Counter[str]
    index: pa.Table
    """One line per document that was not dropped, with its positions in the rows (`raylm.data.lineage`)."""


class Made(NamedTuple):
    """One row of a document: its columns, and its tokens before it was truncated where it was."""

    columns: dict[str, Any]
    whole: int | None = None


def each_row(
    documents: pa.Table,
    make: Callable[[Mapping[str, Any]], list[Made]],
    columns: Mapping[str, pa.DataType],
    with_meta: bool = False,
) -> FormRows:
    """The rows that `make` makes of each document: id, source, and the `columns`.

    Where `make` raises DataError the document is dropped and counted under its `what`. Columns of int32 lists are tokens
    and counted as such.

    Args:
        with_meta: a plain text comes with its other columns.
    """
    import numpy as np
    import pyarrow as pa

    from raylm.tokenize.packing import Layout

    tokens = [name for name, kind in columns.items() if kind == pa.list_(pa.int32())]
    rows, dropped, kept, places = [], Counter[str](), [], []
    names = ("id", "source", "text", "record")
    metas = documents["meta"].to_pylist() if with_meta and "meta" in documents.column_names else [None] * len(documents)
    for at, (id, source, text, record) in enumerate(zip(*(documents[name].to_pylist() for name in names), strict=True)):
        try:
            made = make({**json.loads(metas[at] or "{}"), "text": text} if record is None else json.loads(record))
        except DataError as cause:
            dropped[cause.what] += 1
            continue
        for row in made:
            size = sum(len(row.columns[name]) for name in tokens)
            places.append((len(kept), size, max(row.whole or 0, size)))
            rows.append({"id": id, "source": source, **row.columns})
        kept.append(at)
    schema = pa.schema([("id", pa.string()), ("source", pa.string()), *columns.items()])
    parts = np.array(places, dtype=np.int64).reshape(-1, 3)
    document, sizes, wholes = parts.T
    every, none = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    layout = Layout(every, none, document, every, sizes, len(rows))
    found = index(documents, kept, np.bincount(document, weights=wholes, minlength=len(kept)).astype(np.int64), layout)
    sums = Counter(documents=len(documents), tokens=int(sizes.sum()))
    return FormRows(pa.Table.from_pylist(rows, schema=schema), dropped, sums, found)


def index(documents: pa.Table, kept: list[int], sizes: np.ndarray, layout: Layout) -> pa.Table:
    """The document index of a shard.

    Args:
        kept: positions in `documents` of those that `sizes` (tokens) and `layout` are about.
    """
    import numpy as np
    import pyarrow as pa

    from raylm.data.lineage import index_schema

    schema = index_schema()
    indexed = documents.take(pa.array(kept, pa.int64()))
    meta = indexed["meta"] if "meta" in indexed.column_names else pa.nulls(len(kept), pa.large_string())
    order = np.lexsort((layout.offset, layout.document))
    bounds = pa.array(np.searchsorted(layout.document[order], np.arange(len(kept) + 1)), pa.int32())
    positions = layout.position + layout.leads()
    places = [
        pa.ListArray.from_arrays(bounds, pa.array(values[order], pa.int32())) for values in (layout.row, positions, layout.size)
    ]
    columns = [*(indexed[name] for name in ("id", "source", "start", "end")), meta, pa.array(sizes, pa.int32()), *places]
    return pa.table([column.cast(kind) for column, kind in zip(columns, schema.types, strict=True)], schema=schema)


def check_template(tokenizer: Any, form: str) -> None:
    """Raises DataError when the tokenizer has no chat template, or one that cannot be read."""
    import jinja2

    if not tokenizer.chat_template:
        raise DataError(
            f"this tokenizer has no chat template, which {form} need",
            where=tokenizer.name_or_path,
            next='take a tokenizer that has one, or train one here: tokenizer = {kind = "bpe"}',
        )
    try:
        tokenizer.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False)
    except jinja2.TemplateSyntaxError as cause:
        raise DataError(f"the chat template cannot be read: {cause}", where=tokenizer.name_or_path) from cause
    except ValueError as cause:
        # several templates, and none of them is called `default`
        raise DataError(f"no chat template can be chosen: {cause}", where=tokenizer.name_or_path) from cause
    except (jinja2.TemplateError, TypeError, LookupError, AttributeError, ArithmeticError):
        # a template that wants other turns: the rows have them, or are dropped
        return


def number(row: Mapping[str, Any], column: str) -> float:
    """The number in a column. Raises DataError where there is none, or one that is not finite."""
    found = row.get(column)
    if found is None:
        raise DataError(f"missing_column: {column}")
    if isinstance(found, bool) or not isinstance(found, (int, float)) or not math.isfinite(found):
        raise DataError(f"wrong_shape: {column}", next=f"{column} must be a finite number")
    return float(found)


def answered(
    chat: Chat, question: Dialogue, replies: Sequence[Dialogue], tools: Tools, form: Any, sums: Counter[str]
) -> tuple[list[int], list[list[int]], int]:
    """(prompt, answers, their tokens before the prompt was truncated) of a `form` with `length` and `overlong`.

    Raises:
        DataError: too_long; or what `Chat.answers` raises.
    """
    left_out = chat.left_out(tools)

    def size(some: Dialogue) -> int:
        prompt, answers = chat.answers(some, *replies, tools=tools)
        return len(prompt) + max(map(len, answers))

    prompt, answers = chat.answers(question, *replies, tools=tools)
    whole = len(prompt) + sum(map(len, answers))
    if len(prompt) + max(map(len, answers)) > form.length:
        if form.overlong == "drop":
            raise DataError("too_long")
        prompt, answers = chat.answers(shortened(question, size, form.length, chat.offsets), *replies, tools=tools)
        left = whole - len(prompt) - sum(map(len, answers))
        sums.update({f"{OVERLONG}: truncate_left rows": 1, f"{OVERLONG}: tokens left out": left})
    sums.update(f"{LEFT_OUT}: {what}" for what in left_out)
    return prompt, answers, whole
