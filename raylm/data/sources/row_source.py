"""What sources of rows have: which column is the text, and what the columns are called here."""

from __future__ import annotations

from typing import Any

from pydantic import model_validator

from raylm.core.config import Config
from raylm.data.mapping import Columns


class MappedSource(Config):
    """A source whose rows can be mapped."""

    columns: Columns | None = None
    """What the columns of other rows are: `{prompt = "question", completion = "answer"}`, a path (`data.turns[0].text`) or a
    template (`{{ instruction }}\\n{{ input }}`). The row is kept under these names."""

    def identity(self) -> dict[str, Any]:
        """As of any config, without `columns` where there are none: stages of earlier versions stay what they are."""
        found = super().identity()
        return found if self.columns is not None else {name: value for name, value in found.items() if name != "columns"}


class RowSource(MappedSource):
    """A source of raw rows, each with columns."""

    text_column: str | None = None
    """Column that is the text. Without it a row in one of TRL's shapes is kept whole, and of any other row `text`."""

    @model_validator(mode="after")
    def _one_of_both(self) -> RowSource:
        if self.columns is not None and self.text_column is not None:
            raise ValueError("text_column and columns cannot stand together: write columns = {text = ...}")
        return self
