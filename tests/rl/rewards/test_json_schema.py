"""Completions that are JSON and fit a schema, of the job or of the prompt's row."""

from __future__ import annotations

import json

import pytest

from raylm.rl.rewards.json_schema import JsonSchema
from raylm.rl.types import Prompt, Score, Trajectory, Unscored
from tests.rl.samples import config

SCHEMA = {
    "type": "object",
    "properties": {"name": {"type": "string"}, "age": {"type": "integer", "minimum": 0}},
    "required": ["name"],
    "additionalProperties": False,
}
PROMPT = Prompt(0, [1], "[]", None)


def scored(card: JsonSchema, text: str, prompt: Prompt = PROMPT):
    return card.score_one(prompt, Trajectory([], [], text, "stop"))


@pytest.mark.parametrize(
    ("text", "value", "reason"),
    [
        ('{"name": "Ö", "age": 3}', 1.0, "fits"),
        ('```json\n{"name": "a"}\n```', 1.0, "fits"),
        ('{"name": 1}', 0.25, "$.name: 1 is not of type 'string'"),
        ('{"name": "a", "more": 1}', 0.25, "$: Additional properties are not allowed ('more' was unexpected)"),
        ("[]", 0.25, "$: [] is not of type 'object'"),
        ('{"name": "a"} and more', 0.0, "no JSON: Extra data: line 1 column 15 (char 14)"),
        ('{"name": "a", "age": NaN}', 0.0, "no JSON: NaN is no JSON"),
        ("", 0.0, "no JSON: Expecting value: line 1 column 1 (char 0)"),
    ],
)
def test_what_fits_what_parses_and_what_does_not(text, value, reason):
    assert scored(JsonSchema(json_schema=SCHEMA, parses=0.25), text) == Score(value, reason)


def test_nesting_without_end_is_no_json():
    assert scored(JsonSchema(json_schema=SCHEMA), "[" * 100_000).value == 0.0


def test_each_row_may_have_its_own_schema():
    card = JsonSchema(column="schema")
    for schema in (SCHEMA, json.dumps(SCHEMA)):
        assert scored(card, '{"name": "a"}', PROMPT._replace(columns={"schema": schema})).value == 1.0
    for columns in (None, {"schema": "no json"}, {"schema": {"type": "no type"}}):
        assert isinstance(scored(card, "{}", PROMPT._replace(columns=columns)), Unscored)


def test_nothing_is_fetched_for_a_schema():
    for schema in ({"$ref": "http://127.0.0.1:9/x.json"}, {"$ref": "#/$defs/no"}):
        found = scored(JsonSchema(json_schema=schema), "{}")
        assert isinstance(found, Unscored) and found.kind == "no_schema" and "nothing is fetched for it" in found.why


def test_a_value_that_nests_as_deep_as_it_may_ends_no_training():
    nested = JsonSchema(json_schema={"type": "array", "items": {"$ref": "#"}}, parses=0.25)
    assert scored(nested, "[" * 20 + "]" * 20).value == 1.0
    assert scored(nested, "[" * 900 + "]" * 900) == Score(0.25, "nests too deep to be compared")


def test_a_schema_stands_in_the_job():
    cfg = config(rewards=[{"kind": "json_schema", "json_schema": SCHEMA}])
    assert cfg.rewards[0].json_schema == SCHEMA and cfg.fingerprint()
    for table in ({}, {"json_schema": {}, "column": "schema"}):
        with pytest.raises(ValueError, match="say either"):
            JsonSchema(**table)
