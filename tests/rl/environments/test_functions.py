"""Python functions as tools: their schema, plain and async ones, and what they raise."""

from __future__ import annotations

import json

import pytest

from raylm.core.errors import ConfigError
from raylm.rl.environments.functions import Functions
from raylm.rl.environments.processes import Processes
from tests.rl.talk import coder_of, conversations, prompt, talk

HERE = "tests.rl.environments.test_functions"


def shout(text: str, times: int = 1) -> str:
    """Say it loudly.

    Args:
        text: what to say.
        times: how often.
    """
    return text.upper() * times


async def rate(currency: str) -> float:
    """The rate of a currency.

    Args:
        currency: its three letters.
    """
    return {"EUR": 1.25}[currency]


def undescribed(text):
    return text


def test_functions_are_called_with_what_the_model_says():
    coder = coder_of()
    made = conversations(Functions(functions=[f"{HERE}:shout", f"{HERE}:rate"]), coder, max_tokens=1500, max_len=4000)
    calls = [
        ("shout", {"text": "hi", "times": 2}), ("rate", {"currency": "EUR"}), ("rate", {"currency": "XXX"}),
        ("shout", {"text": "hi", "times": "two"}), ("shout", {}),
    ]  # fmt: skip
    said = [f"<tool_call>\n{json.dumps({'name': name, 'arguments': given})}\n</tool_call>" for name, given in calls]
    one = talk(made, coder, {0: prompt()}, lambda _, request: [*said, "done"][request.turn])[0].trajectory
    schema = made._processes.tools()[0]["function"]
    made.close()
    assert schema["description"] == "Say it loudly." and schema["parameters"]["required"] == ["text"]
    assert schema["parameters"]["properties"]["times"] == {"type": "integer", "description": "how often."}
    answers = [message["content"] for message in json.loads(one.messages) if message["role"] == "tool"]
    assert answers[:3] == ["HIHI", "1.25", "error: KeyError: 'XXX'"] and answers[3].startswith("error: TypeError: ")
    assert answers[4] == "error: shout needs the argument 'text'" and one.metrics == {"tool_calls": 5.0, "tool_errors": 3.0}


@pytest.mark.parametrize(
    ("path", "why"),
    [
        (f"{HERE}:undescribed", "is not described"),
        (f"{HERE}:absent", "cannot import the function"),
        ("no_such_package:f", "cannot import the function"),
        (f"{HERE}:HERE", "is a str, no function"),
    ],
)
def test_a_function_that_is_none_is_refused(path, why):
    with pytest.raises(ConfigError, match=why):
        Functions(functions=[path]).tools()


def test_it_is_refused_before_the_run():
    with pytest.raises(ConfigError, match="cannot import the function"):
        Processes(Functions(functions=[f"{HERE}:absent"]), 1).tools()
