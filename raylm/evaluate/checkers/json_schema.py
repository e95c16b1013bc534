"""The `json_schema` checker: the answer is one JSON value that a schema allows."""

from __future__ import annotations

from typing import Any, ClassVar, Literal

from pydantic import model_validator

from raylm.data.json_schemas import fit, table
from raylm.evaluate.checkers.checker import Checked, Checker
from raylm.evaluate.items import Item


class JsonSchema(Checker):
    """The whole answer is one JSON value that a JSON Schema (draft 2020-12, or the draft that it names) allows."""

    votes: ClassVar[bool] = False

    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] | None = None
    """The schema, as a table."""
    column: str | None = None
    """Column of the prompts' rows with a schema for each (a JSON object, or its text), where they differ."""
    fenced: bool = True
    """A value between ``` and ``` counts too."""

    @model_validator(mode="after")
    def _says_what_fits(self) -> JsonSchema:
        if (self.json_schema is None) == (self.column is None):
            raise ValueError("say either `json_schema` or `column`")
        return self

    def unchecked(self, item: Item) -> str:
        return "" if self._schema(item) is not None else f"without a JSON schema in {self.column!r}"

    def check(self, text: str, item: Item) -> Checked:
        """Raises DataError where the schema is none."""
        found = fit(text, self._schema(item) or {}, self.fenced)
        return Checked(float(found.fits), found.why)

    def _schema(self, item: Item) -> dict[str, Any] | None:
        return self.json_schema if self.json_schema is not None else table(item.columns.get(self.column or ""))
