"""Threshold rules over score columns: which rows are kept, and the first rule that drops each of the others."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

from raylm.core.errors import DataError
from raylm.prepare.filters.verdicts import Verdicts

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


def numbers_of(table: pa.Table, column: str) -> np.ndarray:
    """A score column as numbers; null is NaN. Raises DataError when it is missing or holds no numbers."""
    if column not in table.column_names:
        remedy = 'put a score before it that writes the column, for the published rules {kind = "statistics"}'
        raise DataError(f"there is no column {column!r}; columns: {', '.join(table.column_names)}", next=remedy)
    import pyarrow as pa

    kind = table.schema.field(column).type
    if not (pa.types.is_floating(kind) or pa.types.is_integer(kind)):
        raise DataError(f"the column {column!r} holds {kind}, no numbers", next="name a column of numbers, or use any_of")
    return table[column].to_numpy()


def first_reasons(table: pa.Table, rules: Sequence[tuple[str, str, str, float]]) -> Verdicts:
    """Verdicts of rules (reason, column, "<" or ">", limit): a row is dropped for the first whose column is below or above.

    float32 columns are compared with the limit as float32, so that a share of exactly 0.3 is not above 0.3. Raises DataError
    for a missing column.
    """
    import numpy as np

    failed = np.zeros(table.num_rows, dtype=np.int64)
    for place, (_, column, side, limit) in enumerate(rules, start=1):
        values = numbers_of(table, column)
        fails = values < limit if side == "<" else values > limit
        failed[fails & (failed == 0)] = place
    names = np.array(["", *(reason for reason, *_ in rules)], dtype=object)
    return Verdicts(failed == 0, names[failed].tolist())
