"""The calculator tool: answers, errors, and several calls in one turn."""

import asyncio

from raylm.data.sources.arithmetic_questions import CALCULATOR
from raylm.rl.environments.calculator import Calculator
from raylm.rl.environments.environment import Call, Turn


def step(*calls: Call, **options):
    return asyncio.run(Calculator(**options).step(Turn("", "", calls)))


def test_calls_of_one_turn_are_answered_in_their_order():
    calls = Call("a", "calculator", {"expression": "1+1"}), Call("b", "calculator", {"expression": "2*3"})
    found = step(*calls)
    assert [(message["tool_call_id"], message["content"]) for message in found.messages] == [("a", "2"), ("b", "6")]
    assert found.metrics == {"tool_calls": 2, "tool_errors": 0} and not found.done and found.reward is None


def test_wrong_calls_are_answered_with_an_error():
    for arguments, said in (
        ({}, "error: calculator needs the argument 'expression'"),
        ({"expression": "1", "digits": 3}, "error: calculator has no argument 'digits'; it has: expression"),
        ({"expression": "1 / 0"}, "error: division by zero"),
    ):
        found = step(Call("a", "calculator", arguments))
        assert found.messages[0]["content"] == said and found.metrics["tool_errors"] == 1


def test_a_long_answer_is_cut_and_says_so():
    found = step(Call("a", "calculator", {"expression": "10 ** 50"}), max_result_chars=20)
    assert found.messages[0]["content"] == f"1{'0' * 19}... (31 more characters)"


def test_a_turn_without_a_call_is_the_last():
    assert step().done


def test_its_tool_is_the_one_that_rows_of_the_arithmetic_source_call():
    assert Calculator().tools() == [CALCULATOR]
