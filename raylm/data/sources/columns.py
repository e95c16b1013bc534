"""Documents from batches of raw Arrow columns, without a Python object per text."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from raylm.data.mapping import Columns
from raylm.data.records import STRUCTURED, Rejected, id_of, meta_of, read_row, schema
from raylm.data.sources.units import BATCH_BYTES, BATCH_ROWS, table_of
from raylm.data.tools import without_nulls

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def documents_of(
    raw: pa.RecordBatch,
    text_column: str | None,
    source: str,
    numbers: Sequence[int],
    max_row_bytes: int,
    columns: Columns | None = None,
) -> tuple[pa.Table, list[Rejected]]:
    """Documents of a batch, and what was rejected of it; both are `read_row`'s, decided by column where that is possible.

    Args:
        numbers: of each row, within its file; the row's range is from its number to the next.
        columns: how rows are mapped, which is decided row by row.
    """
    names = raw.schema.names
    if columns or (
        text_column is None and any(name in STRUCTURED and raw.column(at).null_count < len(raw) for at, name in enumerate(names))
    ):
        return _by_row(raw, source, numbers, max_row_bytes, columns)
    column = text_column or "text"
    if column not in names:
        return schema().empty_table(), [Rejected("missing_column", f"{source}:{at}", tuple(names)) for at in numbers]
    texts, reasons = _checked(raw.column(names.index(column)), max_row_bytes)
    lost = [
        Rejected(str(reasons[at]), f"{source}:{numbers[at]}", tuple(names) if reasons[at] == "text_is_no_string" else ())
        for at in (reasons != "").nonzero()[0]
    ]
    return _table(raw, column, texts, source, numbers, (reasons == "").nonzero()[0]), lost


def scalars(fields: pa.Schema, text_column: str | None, columns: Columns | None = None) -> list[str] | None:
    """Names of the columns that documents are made of; None for all, where rows may be structured or are mapped."""
    if columns or (text_column is None and any(name in STRUCTURED for name in fields.names)):
        return None
    return [field.name for field in fields if field.name == (text_column or "text") or _is_meta(field.type)]


def batch_rows(num_rows: int, num_bytes: int) -> int:
    """Rows that make a batch, where so many rows have so many bytes."""
    return max(1, min(BATCH_ROWS, num_rows * BATCH_BYTES // max(num_bytes, 1)))


def parts_of(batch: pa.RecordBatch) -> Iterator[tuple[int, pa.RecordBatch]]:
    """(number of the first row, part) of a batch cut to about 1000 rows or 16 MB; nothing is copied."""
    rows = batch_rows(len(batch), batch.nbytes)
    for start in range(0, len(batch), rows):
        yield start, batch.slice(start, rows)


def _table(raw: pa.RecordBatch, column: str, texts: pa.Array, source: str, numbers: Sequence[int], kept: np.ndarray) -> pa.Table:
    import pyarrow as pa

    starts = [int(numbers[at]) for at in kept]
    metas = _metas(raw, column) or [None] * len(raw)
    columns = {
        "id": pa.array([id_of(source, start, start + 1) for start in starts], pa.string()),
        "source": pa.repeat(pa.scalar(source, pa.string()), len(starts)),
        "start": pa.array(starts, pa.int64()),
        "end": pa.array([start + 1 for start in starts], pa.int64()),
        "text": texts if len(starts) == len(texts) else texts.take(pa.array(kept)),
        "record": pa.nulls(len(starts), pa.large_string()),
        "meta": pa.array([metas[at] for at in kept], pa.large_string()),
    }
    return pa.table(columns, schema=schema())


def _checked(texts: pa.Array, max_row_bytes: int) -> tuple[pa.Array, np.ndarray]:
    """(large_string, the reason to drop each row or "")."""
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute

    pc: Any = pyarrow.compute  # its functions are made when it is imported, which no checker sees
    reasons = np.full(len(texts), "", dtype=object)
    if pa.types.is_dictionary(texts.type):
        texts = texts.dictionary_decode()
    if not _is_string(texts.type):
        reasons[:] = "text_is_no_string"
        reasons[texts.is_null().to_numpy(zero_copy_only=False)] = "empty"
        return pa.nulls(len(texts), pa.large_string()), reasons
    texts = texts.cast(pa.large_string())
    broken = _not_utf8(texts)
    if broken.any():
        values = zip(texts.cast(pa.large_binary()).to_pylist(), broken, strict=True)
        texts = pa.array([None if bad else value for value, bad in values], pa.large_binary()).cast(pa.large_string())
    lengths = pc.fill_null(pc.binary_length(texts), 0).to_numpy()
    reasons[(lengths == 0) | pc.fill_null(pc.utf8_is_space(texts), False).to_numpy(zero_copy_only=False)] = "empty"
    reasons[lengths > max_row_bytes] = "row_too_long"
    reasons[broken] = "invalid_utf8"
    return texts, reasons


def _not_utf8(texts: pa.Array) -> np.ndarray:
    """Which rows hold bytes that are no UTF-8: Parquet's `string` type is not checked by writers."""
    import numpy as np
    import pyarrow as pa

    try:
        texts.validate(full=True)
    except pa.ArrowInvalid:
        return np.array([not _decodes(value) for value in texts.cast(pa.large_binary()).to_pylist()])
    return np.zeros(len(texts), bool)


def _decodes(value: bytes | None) -> bool:
    try:
        return value is None or value.decode() is not None
    except UnicodeDecodeError:
        return False


def _metas(raw: pa.RecordBatch, column: str) -> list[str | None] | None:
    """`meta` of every row; None where no column could give one."""
    import pyarrow as pa

    found: dict[str, list[Any]] = {}
    for name, array in zip(raw.schema.names, raw.columns, strict=True):
        if name != column and _is_meta(array.type):
            if pa.types.is_dictionary(array.type):
                array = array.dictionary_decode()
            if _is_string(array.type) and _not_utf8(array.cast(pa.large_string())).any():
                values = array.cast(pa.large_binary()).to_pylist()
                found[name] = [None if value is None else value.decode(errors="replace") for value in values]
            else:
                found[name] = _listed(array)
    rows = zip(*found.values(), strict=True)
    return [meta_of(dict(zip(found, row, strict=True)), ()) for row in rows] if found else None


def _listed(array: pa.Array) -> list[Any]:
    import pyarrow as pa

    try:
        return array.to_pylist()
    except UnicodeDecodeError:  # inside an object; its strings are not looked at one by one
        return [None if row is None else row["row"] for row in _values(pa.RecordBatch.from_arrays([array], ["row"]))]


def _by_row(
    raw: pa.RecordBatch, source: str, numbers: Sequence[int], max_row_bytes: int, columns: Columns | None
) -> tuple[pa.Table, list[Rejected]]:
    rows, lost = [], []
    for number, row in zip(numbers, _values(raw), strict=True):
        where = f"{source}:{number}"
        result = (
            Rejected("invalid_utf8", where)
            if row is None
            else read_row(without_nulls(row, columns and columns.tools_column()), None, source, number, number + 1, columns)
        )
        if isinstance(result, dict) and len((result["record"] or result["text"]).encode()) > max_row_bytes:
            result = Rejected("row_too_long", where)
        (lost if isinstance(result, Rejected) else rows).append(result)
    return table_of(rows), lost


def _values(raw: pa.RecordBatch) -> Iterator[dict[str, Any] | None]:
    """Rows as Python values; None for one whose strings are no UTF-8."""
    try:
        yield from raw.to_pylist()
    except UnicodeDecodeError:
        for at in range(len(raw)):
            try:
                yield raw.slice(at, 1).to_pylist()[0]
            except UnicodeDecodeError:
                yield None


def _is_string(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_string_view(kind)


def _is_meta(kind: pa.DataType) -> bool:
    """Whether it holds scalars, or objects with scalars in them."""
    import pyarrow as pa

    return _is_scalar(kind) or (pa.types.is_struct(kind) and any(_is_meta(kind.field(at).type) for at in range(kind.num_fields)))


def _is_scalar(kind: pa.DataType) -> bool:
    import pyarrow as pa

    if pa.types.is_dictionary(kind):
        return _is_string(kind.value_type)
    return _is_string(kind) or pa.types.is_integer(kind) or pa.types.is_floating(kind) or pa.types.is_boolean(kind)
