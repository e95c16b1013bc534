"""The `between` filter: keeps documents whose score lies in a range, or whose label is one of a list."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.prepare.filters.rules import numbers_of
from raylm.prepare.filters.verdicts import Verdicts
from raylm.prepare.metadata import with_columns

if TYPE_CHECKING:
    import pyarrow as pa


class Between(Config):
    """Keeps min <= value <= max of a column of numbers, or a column of strings that is one of `any_of`."""

    kind: Literal["between"] = "between"
    column: str
    """A column that a score wrote before, here or in an earlier stage, or a key of the metadata with a dot in it:
    `metadata.score`, or `meta.score` of a column that stands beside the text."""
    min: float | None = None
    """Smallest value that is kept; no value (null, NaN) is below it."""
    max: float | None = None
    """Largest value that is kept."""
    any_of: tuple[str, ...] = Field(default=())
    """Strings that are kept, for a column of strings."""

    @model_validator(mode="after")
    def _asks_for_something(self) -> Self:
        if (self.min is None and self.max is None) == (not self.any_of):
            raise ValueError("between needs min or max, or any_of, and not both")
        if self.min is not None and self.max is not None and self.min > self.max:
            raise ValueError(f"nothing lies between min = {self.min} and max = {self.max}")
        return self

    @property
    def reads(self) -> tuple[str, ...]:
        """The column."""
        return (self.column,)

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: <column>_too_low, <column>_too_high, <column>_other. DataError: no such column, or of the other type."""
        import numpy as np

        table = with_columns(table, (self.column,))
        if self.any_of:
            import pyarrow as pa
            import pyarrow.compute as pc

            if "." in self.column and table[self.column].null_count == len(table):
                table = table.set_column(table.column_names.index(self.column), self.column, pa.nulls(len(table), pa.string()))

            if self.column not in table.column_names or not _is_text(table.schema.field(self.column).type):
                raise DataError(f"no column of strings {self.column!r}", next=f"columns: {', '.join(table.column_names)}")
            known = pc.call_function("is_in", [table[self.column]], pc.SetLookupOptions(pa.array(self.any_of)))
            keep = known.combine_chunks().to_numpy(zero_copy_only=False)
            return Verdicts(keep, ["" if kept else f"{self.column}_other" for kept in keep])
        values = numbers_of(table, self.column)
        # written so that NaN is dropped by either bound
        low = ~(values >= self.min) if self.min is not None else np.zeros(len(values), bool)
        high = ~(values <= self.max) & ~low if self.max is not None else np.zeros(len(values), bool)
        names = np.array(["", f"{self.column}_too_low", f"{self.column}_too_high"], dtype=object)
        return Verdicts(~(low | high), names[low + 2 * high].tolist())


def _is_text(kind: pa.DataType) -> bool:
    import pyarrow as pa

    return pa.types.is_string(kind) or pa.types.is_large_string(kind)
