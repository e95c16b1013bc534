"""The arithmetic recipe: right, deterministic, each question once, fit for all three forms."""

import json

import pytest

from raylm.data.answers import last_number_is
from raylm.data.records import as_dialogue, as_pair, as_prompt
from raylm.data.sources.arithmetic_questions import ArithmeticQuestions
from raylm.data.tools import tools_of


def _read(**keys):
    card = ArithmeticQuestions(**keys)
    return [row for unit in card.units() for row in card.read(unit)]


def test_answers_are_right_and_wrong_ones_are_not():
    rows = _read(num_rows=3000, largest=20, operations=["add", "subtract", "multiply"])
    assert len(rows) == 3 * 21 * 21 == len({row["id"] for row in rows}) and rows == _read(
        num_rows=3000, largest=20, operations=["add", "subtract", "multiply"]
    )
    for row in rows:
        record = json.loads(row["record"])
        prompt, chosen, rejected = as_pair(record)
        asked = next(word for word in ("+", "-", "*") if f" {word} " in prompt[0]["content"])
        one, other = (
            int("".join(filter(str.isdigit, part.split()[at])))
            for part, at in zip(prompt[0]["content"].split(f" {asked} "), (-1, 0), strict=True)
        )
        right = {"+": one + other, "-": one - other, "*": one * other}[asked]
        assert record["answer"] == str(right) and row["source"].startswith("arithmetic/")
        assert last_number_is(chosen[0]["content"], record["answer"])
        assert last_number_is(rejected[0]["content"], record["answer"]) is False
        assert as_prompt(record) == (prompt, record["answer"]) and as_dialogue(record) == prompt + chosen


@pytest.mark.parametrize("count", [1, 50])
def test_rows_are_bounded_and_mixed(count):
    rows = _read(num_rows=count)
    assert len(rows) == count
    assert count == 1 or len({row["source"] for row in rows}) == 2


def test_rows_with_a_tool_call_the_calculator_for_what_is_asked():
    rows = _read(num_rows=200, operations=["multiply"], tools=True)
    for row in rows:
        record = json.loads(row["record"])
        asked, called, answered, said = as_dialogue(record)
        expression = called["tool_calls"][0]["function"]["arguments"]["expression"]
        assert expression in asked["content"] and tools_of(record)[0]["function"]["name"] == "calculator"
        assert answered["content"] == str(eval(expression)) and last_number_is(said["content"], answered["content"])
    plain = {row["source"] for row in _read(num_rows=200, operations=["multiply"])}
    assert {row["source"] for row in rows} == plain == {"arithmetic/multiply"}
