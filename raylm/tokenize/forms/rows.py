"""What all forms share: the record of rows they return, one row per document, the document index."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import DataError
from raylm.data.records import tools_of

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


def each_row(
    documents: pa.Table, make: Callable[[Mapping[str, Any]], dict[str, Any]], columns: Mapping[str, pa.DataType]
) -> FormRows:
    """One row per document: id, source, and the `columns` that `make` returns.

    Where `make` raises DataError the document is dropped and counted under its `what`. Columns of int32 lists are tokens
    and counted as such.
    """
    import numpy as np
    import pyarrow as pa

    from raylm.tokenize.packing import Layout

    rows, dropped, kept = [], Counter[str](), []
    names = ("id", "source", "text", "record")
    for at, (id, source, text, record) in enumerate(zip(*(documents[name].to_pylist() for name in names), strict=True)):
        try:
            row = {"text": text} if record is None else json.loads(record)
            if tools_of(row):
                raise DataError("unread_key: tools")
            rows.append({"id": id, "source": source, **make(row)})
            kept.append(at)
        except DataError as cause:
            dropped[cause.what] += 1
    schema = pa.schema([("id", pa.string()), ("source", pa.string()), *columns.items()])
    tokens = [name for name, kind in columns.items() if kind == pa.list_(pa.int32())]
    sizes = np.array([sum(len(row[name]) for name in tokens) for row in rows], dtype=np.int64)
    every, none = np.arange(len(rows)), np.zeros(len(rows), dtype=np.int64)
    places = index(documents, kept, sizes, Layout(every, none, every, none, sizes, len(rows)))
    sums = Counter(documents=len(documents), tokens=int(sizes.sum()))
    return FormRows(pa.Table.from_pylist(rows, schema=schema), dropped, sums, places)


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


def fit(length: int, *rows: list[int]) -> None:
    """Raises DataError(too_long) when one of the rows is."""
    if any(len(row) > length for row in rows):
        raise DataError("too_long")
