"""The `json_schema` reward: whether a completion is a JSON value that fits a schema."""

from __future__ import annotations

import json
import re
from typing import Any, Literal

from pydantic import Field, model_validator

from raylm.rl.rewards.reward import Reward
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

FENCE = re.compile(r"\s*```(?:json)?[ \t]*\n(.*?)\n?[ \t]*```\s*", re.DOTALL)


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
        from jsonschema import exceptions, validators
        from referencing.jsonschema import EMPTY_REGISTRY

        schema = self.json_schema if self.json_schema is not None else _table((prompt.columns or {}).get(self.column or ""))
        if schema is None:
            return Unscored("no_schema", f"the prompt's row has no JSON schema in `{self.column}`")
        try:
            checker = validators.validator_for(schema, default=validators.validator_for({"$schema": DRAFT}))
            checker.check_schema(schema)
        except exceptions.SchemaError as cause:
            return Unscored("no_schema", f"not a JSON schema: {cause.message}")
        text = trajectory.text
        if self.fenced and (fence := FENCE.fullmatch(text)):
            text = fence[1]
        try:
            made = json.loads(text, parse_constant=_refuse)
        except (ValueError, RecursionError) as cause:
            return Score(0.0, f"no JSON: {cause}")
        # what a schema refers to must stand in it: nothing is fetched
        wrong = next(iter(checker(schema, registry=EMPTY_REGISTRY).iter_errors(made)), None)
        return Score(self.value, "fits") if wrong is None else Score(self.parses, f"{wrong.json_path}: {wrong.message}")


DRAFT = "https://json-schema.org/draft/2020-12/schema"


def _refuse(word: str) -> Any:
    raise ValueError(f"{word} is no JSON")


def _table(found: Any) -> dict[str, Any] | None:
    if isinstance(found, str):
        try:
            found = json.loads(found)
        except ValueError:
            return None
    return found if isinstance(found, dict) else None
