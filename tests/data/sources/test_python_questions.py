"""The question recipe: balanced, deterministic, and right."""

import importlib
import inspect
import json
from collections import Counter

from raylm.data.records import as_dialogue, as_pair, as_prompt, tools_of
from raylm.data.sources.python_questions import KINDS, PythonQuestions


def _read(num_rows):
    card = PythonQuestions(num_rows=num_rows)
    return [row for unit in card.units() for row in card.read(unit)]


def test_rows_serve_all_three_forms_and_are_balanced():
    rows = _read(1000)
    assert len(rows) == len({row["id"] for row in rows}) == 1000 and rows == _read(1000)
    records = [json.loads(row["record"]) for row in rows]
    assert Counter(record["answer"] for record in records) == dict.fromkeys(KINDS, 200)
    for record in records:
        prompt, chosen, rejected = as_pair(record)
        assert record["answer"] in chosen[0]["content"] and record["answer"] not in rejected[0]["content"]
        assert as_prompt(record) == (prompt, record["answer"]) and as_dialogue(record) == prompt + chosen


def test_answers_agree_with_the_running_interpreter():
    checked = 0
    for row in _read(500):
        record = json.loads(row["record"])
        name = record["prompt"][0]["content"].split("`")[1]
        module, _, last = name.rpartition(".")
        if module not in ("json.decoder", "argparse", "shutil", "socket", "ssl", "inspect", "pickle", "tarfile", "enum"):
            continue
        value = getattr(importlib.import_module(module), last, None)
        if record["answer"] == "exception":
            assert issubclass(value, Exception)
        if record["answer"] == "class" and value is not None:
            assert inspect.isclass(value)
        if record["answer"] == "function" and value is not None:
            assert callable(value)
        checked += 1
    assert checked > 5


def test_with_tools_the_assistant_calls_before_it_answers():
    source = PythonQuestions(num_rows=10, tools=True)
    rows = [json.loads(row["record"]) for row in source.read(source.units()[0])]
    for row in rows:
        question, call, answer, last = as_dialogue(row)
        name = call["tool_calls"][0]["function"]["arguments"]["name"]
        assert f"`{name}`" in question["content"] and last["content"].split()[-1] == f"{answer['content']}."
        assert [tool["function"]["name"] for tool in tools_of(row)] == ["kind_of"]
