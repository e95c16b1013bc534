"""The `length` filter: drops documents that are too short or too long."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.prepare.filters.verdicts import Verdicts, verdicts

if TYPE_CHECKING:
    import pyarrow as pa


class Length(Config):
    """Drops documents that are too short or too long."""

    kind: Literal["length"] = "length"
    min_chars: int = Field(default=0, ge=0)
    """Fewest characters (Unicode code points) a document may have."""
    max_chars: int | None = Field(default=None, gt=0)
    """Most characters a document may have; None sets no bound."""

    @model_validator(mode="after")
    def _has_room(self) -> Self:
        if self.max_chars is not None and self.min_chars > self.max_chars:
            raise ValueError(f"no length lies between min_chars = {self.min_chars} and max_chars = {self.max_chars}")
        return self

    def judge(self, table: pa.Table) -> Verdicts:
        """Reasons: too_short, too_long_text."""
        import pyarrow.compute as pc

        most = float("inf") if self.max_chars is None else self.max_chars
        lengths = pc.call_function("utf8_length", [table["text"]]).to_pylist()
        return verdicts(["too_short" if n < self.min_chars else "too_long_text" if n > most else "" for n in lengths])
