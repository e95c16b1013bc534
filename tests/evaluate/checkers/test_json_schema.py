"""Answers that are JSON of a schema."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raylm.evaluate.checkers.json_schema import JsonSchema
from raylm.evaluate.items import Item

SCHEMA = {"type": "object", "required": ["a"], "properties": {"a": {"type": "integer"}}}


def test_the_whole_answer_fits_or_does_not():
    card, row = JsonSchema(json_schema=SCHEMA), Item("x", [], None, {}, "")
    assert card.check('```json\n{"a": 1}\n```', row) == (1.0, "fits")
    assert card.check('{"a": "1"}', row).why.startswith("$.a:")
    assert card.check('Here: {"a": 1}', row).why.startswith("no JSON")
    assert card.unchecked(row) == ""


def test_each_row_may_have_a_schema_of_its_own():
    card = JsonSchema(column="form")
    assert card.check("[1]", Item("x", [], None, {"form": '{"type": "array"}'}, "")).value == 1.0
    assert card.unchecked(Item("x", [], None, {}, "")) == "without a JSON schema in 'form'"
    with pytest.raises(ValidationError, match="either"):
        JsonSchema()
