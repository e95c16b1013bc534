"""The `json_schema` reward: whether a completion is a JSON value that fits a schema."""

from __future__ import annotations

from typing import Any, Literal

from pydantic import Field, model_validator

from raylm.core.errors import DataError
from raylm.data.json_schemas import fit, table
from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Prompt, Score, Trajectory, Unscored


class JsonSchema(Reward):
    """The whole completion is one JSON value that a JSON Schema (draft 2020-12, or the draft that it names) allows."""

    kind: Literal["json_schema"] = "json_schema"
    json_schema: dict[str, Any] | None = None
    """The schema, as a table."""
    column: str | None = None
    """Column of the prompts' rows with a schema for each (a JSON object, or its text), where they differ."""
    fenced: bool = True
    """A value between ``` and ``` counts too."""
    value: float = Field(default=1.0, allow_inf_nan=False)
    """Reward of a completion that fits."""
    parses: float = Field(default=0.0, allow_inf_nan=False)
    """Reward of one that is JSON and does not fit."""

    @model_validator(mode="after")
    def _says_what_fits(self) -> JsonSchema:
        if (self.json_schema is None) == (self.column is None):
            raise ValueError("say either `json_schema` or `column`")
        return self

    def score_one(self, prompt: Prompt, trajectory: Trajectory) -> Score | Unscored:
        """The reward, with the first thing that does not fit."""
        schema = self.json_schema if self.json_schema is not None else table((prompt.columns or {}).get(self.column or ""))
        if schema is None:
            return Unscored("no_schema", f"the prompt's row has no JSON schema in `{self.column}`")
        try:
            found = fit(trajectory.text, schema, self.fenced)
        except DataError as cause:
            return Unscored("no_schema", cause.what)
        return Score(self.value if found.fits else self.parses if found.parses else 0.0, found.why)
