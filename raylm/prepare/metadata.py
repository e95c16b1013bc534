"""Values of documents' metadata by key; a dotted key such as `metadata.url` goes into objects."""

from __future__ import annotations

import json
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import pyarrow as pa

# where datatrove, dolma and RedPajama put what belongs to a row
_WITHIN = ("metadata", "meta")


def value_of(meta: str | None, name: str) -> Any:
    """The value of a key; None where there is none. A plain name is looked for in `metadata` and `meta` too, and
    `meta.name` finds a key that stands beside the text."""
    key = name.rpartition(".")[2]
    # most metadata is read for nothing otherwise; inside a string quotes are escaped
    if not meta or key not in meta:
        return None
    held = json.loads(meta)
    found = _within(held, name)
    if found is None and "." not in name:
        found = next((value for outer in _WITHIN if (value := _within(held, f"{outer}.{name}")) is not None), None)
    return found


def _within(held: dict[str, Any], name: str) -> Any:
    if name in held:
        return held[name]
    outer, dot, rest = name.partition(".")
    if not dot:
        return None
    inner = held.get(outer)
    if isinstance(inner, str) and inner.lstrip().startswith("{"):
        # some sets hold it as JSON in a string
        try:
            inner = json.loads(inner)
        except ValueError:
            inner = None
    found = _within(inner, rest) if isinstance(inner, dict) else None
    return _within(held, rest) if found is None and outer in _WITHIN else found


def column_of(metas: Iterable[str | None], name: str) -> pa.Array:
    """The values of a key as a column: float64 where all are numbers, else strings. Raises DataError where none has it."""
    import pyarrow as pa

    values = [value_of(meta, name) for meta in metas]
    if all(value is None or (isinstance(value, int | float) and not isinstance(value, bool)) for value in values):
        return pa.array([None if value is None else float(value) for value in values], pa.float64())
    return pa.array([value if value is None or isinstance(value, str) else json.dumps(value) for value in values], pa.string())


def with_columns(table: pa.Table, names: Iterable[str]) -> pa.Table:
    """The table with a column for each dotted name that is none of its own yet, read from the metadata."""
    for name in names:
        if name and "." in name and name not in table.column_names and "meta" in table.column_names:
            table = table.append_column(name, column_of(table["meta"].to_pylist(), name))
    return table
