"""Rows under other names: columns, paths and templates give the shapes that are read; what is missing or unread is counted."""

import json

import pytest
from pydantic import ValidationError

from raylm.core.errors import DataError
from raylm.data.mapping import Columns, columns_of
from raylm.data.records import Rejected, as_dialogue, as_pair, as_prompt, as_unpaired, is_structured, read_row

# rows of GSM8K's shape
MATHS = {"question": "What is 6 times 7?", "answer": "6 * 7 = <<6*7=42>>42\n#### 42"}
NESTED = {"id": 7, "data": {"lang": "en", "turns": [{"by": "a", "text": "Why?"}, {"by": "b", "text": "Because."}]}}
ALPACA = "{{ instruction }}{% if input %}\n\n{{ input }}{% endif %}"
PARAMETERS = {"type": "object", "properties": {"b": {"type": "number"}, "a": {"type": "number"}}}
TOOL = {"name": "add", "description": "", "parameters": PARAMETERS}


def said(*texts):
    roles = ("user", "assistant")
    return [{"role": roles[at % 2], "content": text} for at, text in enumerate(texts)]


def read(row, **columns):
    made = read_row(row, None, "f", 10, 20, Columns(**columns))
    assert isinstance(made, dict), made
    return made, None if made["record"] is None else json.loads(made["record"])


def refused(row, **columns):
    made = read_row(row, None, "f", 10, 20, Columns(**columns))
    assert isinstance(made, Rejected)
    return made.reason


@pytest.mark.parametrize(
    ("row", "columns", "turns"),
    [
        (MATHS, {"prompt": "question", "completion": "answer"}, said(*MATHS.values())),
        ({"instruction": "Add.", "input": "1 2", "output": "3"}, {"prompt": ALPACA, "completion": "output"},
         said("Add.\n\n1 2", "3")),
        ({"instruction": "Hi.", "input": None, "output": "3"}, {"prompt": ALPACA, "completion": "output"}, said("Hi.", "3")),
        (NESTED, {"prompt": "data.turns[0].text", "completion": "data.turns[-1].text"}, said("Why?", "Because.")),
        ({"data": json.dumps(NESTED["data"])}, {"prompt": "data.turns[0].text", "completion": "data.turns[1].text"},
         said("Why?", "Because.")),
        ({"a.b": "q", "My Answer": "x"}, {"prompt": "a.b", "completion": '{{ row["My Answer"] }}'}, said("q", "x")),
        ({"q": "1+1", "n": 2}, {"prompt": "{{ q }} = ?", "completion": "n"}, said("1+1 = ?", "2")),
        ({"chat": json.dumps(said("q", "x"))}, {"messages": "chat"}, said("q", "x")),
        ({"chat": {"log": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "x"}]}}, {"messages": "chat.log"},
         said("q", "x")),
        ({"q": "q", "a": "x", "who": "s"}, {"prompt": "q", "completion": "a", "system": "who"},
         [{"role": "system", "content": "s"}, *said("q", "x")]),
        ({"q": "q", "a": "x", "who": ""}, {"prompt": "q", "completion": "a", "system": "who"}, said("q", "x")),
        ({"q": "q2", "a": "x2", "old": '[["q", "x"]]'}, {"prompt": "q", "completion": "a", "history": "old"},
         said("q", "x", "q2", "x2")),
        ({"q": said("q"), "a": said("-", "x")[1:]}, {"prompt": "q", "completion": "a"}, said("q", "x")),
        # what people call the choices of a test
        ({"q": "Which?", "options": ["x", "y"], "right": 1},
         {"prompt": "{{ q }}{% for o in options %}\n- {{ o }}{% endfor %}", "completion": "{{ options[right] }}"},
         said("Which?\n- x\n- y", "y")),
    ],
)  # fmt: skip
def test_rows_of_other_names_are_dialogues(row, columns, turns):
    made, record = read(row, **columns)
    assert as_dialogue(record) == turns and is_structured(record)
    # lineage is that of the raw row
    assert (made["source"], made["start"], made["end"]) == ("f", 10, 20)
    assert made["text"] == "\n\n".join(turn["content"] for turn in turns)


def test_the_mapped_columns_are_no_metadata_and_others_are():
    made, record = read({**MATHS, "url": "u", "level": 3}, prompt="question", completion="answer")
    assert json.loads(made["meta"]) == {"url": "u", "level": 3} and set(record) == {"prompt", "completion"}
    made, _ = read(NESTED, prompt="data.turns[0].text", completion="data.turns[1].text")
    assert json.loads(made["meta"]) == {"id": 7, "data.lang": "en"}
    made, _ = read({"data": {"q": "q", "a": "x", "url": "u"}}, prompt="data.q", completion="data.a")
    assert json.loads(made["meta"]) == {"data.url": "u"}


def test_prompts_pairs_and_judged_answers():
    _, record = read(MATHS, prompt="question", ground_truth="{{ answer.split('#### ')[1] }}")
    assert as_prompt(record) == (said(MATHS["question"]), "42")
    pair = {"q": "q", "scores": [1, 2], "answers": ["worse", "better"]}
    _, record = read(pair, prompt="q", chosen="answers[1]", rejected="answers[0]")
    assert [turns[-1]["content"] for turns in as_pair(record)] == ["q", "better", "worse"]
    for value, good in ((True, True), (0, False), ("False", False), ("yes", True), ("1", True)):
        _, record = read({"q": "q", "a": "x", "ok": value}, prompt="q", completion="a", label="ok")
        assert as_unpaired(record) == (said("q"), said("-", "x")[1:], good)
    _, record = read({"q": "q", "a": "x", "score": 3.5}, prompt="q", completion="a", label="{{ score > 3 }}")
    assert as_unpaired(record)[2] is True
    _, record = read({"chat": said("q"), "up": "x", "down": "y"}, messages="chat", chosen="up", rejected="down")
    assert as_pair(record)[0] == said("q")


def test_tools_and_reasoning_are_mapped():
    row = {"q": "1+2?", "a": "3", "why": "one and two", "api": json.dumps([TOOL])}
    _, record = read(row, prompt="q", completion="a", reasoning_content="why", tools="api")
    assert as_dialogue(record)[1] == {"role": "assistant", "content": "3", "reasoning_content": "one and two"}
    _, record = read({**row, "api": [TOOL]}, prompt="q", completion="a", reasoning_content="why", tools="api")
    # a schema stays in the order of the row
    assert json.dumps(record["tools"]) == json.dumps([TOOL])
    _, record = read({**row, "api": [], "why": None}, prompt="q", completion="a", reasoning_content="why", tools="api")
    assert set(record) == {"prompt", "completion"}


def test_a_plain_text_is_mapped_too():
    made, record = read({"title": "T", "body": "B", "images": ["x"], "url": "u"}, text="# {{ title }}\n\n{{ body }}")
    assert (made["text"], record, made["meta"]) == ("# T\n\nB", None, '{"url":"u"}')
    assert read({"body": "B"}, text="body")[0] == read_row({"body": "B"}, "body", "f", 10, 20)


QA = {"prompt": "q", "completion": "a"}


@pytest.mark.parametrize(
    ("row", "columns", "reason"),
    [
        ({"q": "x"}, QA, "missing_column: a"),
        ({"q": {"t": "x"}, "a": "y"}, QA | {"prompt": "q.text"}, "missing_column: q.text"),
        ({"q": [], "a": "y"}, QA | {"prompt": "q[0]"}, "missing_column: q[0]"),
        ({"q": "x", "a": "y"}, QA | {"prompt": "{{ q }} {{ inptu }}"}, "missing_column: inptu"),
        ({"q": {"t": "x"}, "a": "y"}, QA | {"prompt": "{{ q.text }}"}, "missing_column: text"),
        ({"q": "x", "a": "y"}, QA | {"prompt": "{% if inptu %}{{ q }}{% endif %}"}, "missing_column: inptu"),
        ({"q": "x", "a": "y"}, QA | {"tools": "apis"}, "missing_column: apis"),
        ({"q": "x", "a": " "}, QA, "empty_column: a"),
        ({"q": None, "a": "y"}, QA, "empty_column: q"),
        ({"q": None, "a": "y"}, QA | {"prompt": "q.text"}, "empty_column: q.text"),
        ({"q": None, "a": "y"}, QA | {"prompt": "{{ q }}"}, "empty_column: prompt"),
        ({"q": ["x", "y"], "a": "y"}, QA | {"prompt": "{{ q }}"}, "template_prints: list"),
        ({"q": {"t": 1}, "a": "y"}, QA | {"prompt": "{{ q }}"}, "template_prints: dict"),
        ({"q": ["x"], "a": "y"}, QA | {"prompt": "{{ 'Q: ' ~ q }}"}, "template_prints: list"),
        ({"q": ["x", "y"], "a": "y"}, QA | {"prompt": "{{ q[1:] ~ q[:1] }}"}, "template_prints: list"),
        ({"q": ["x"], "a": "y"}, QA | {"prompt": "{{ (q + q) ~ 1 }}"}, "template_prints: list"),
        ({"q": ["x"], "a": "y"}, QA | {"prompt": "{{ q | map('upper') }}"}, "template_prints: generator"),
        ({"q": {"t": 1}, "a": "y"}, QA | {"prompt": "{{ q.keys }}"}, "template_prints: builtin_function_or_method"),
        # of an object a part is read, as by a path
        ({"d": {"q": "x", "context": "z"}, "a": "y"}, QA | {"prompt": "{{ d.q }}"}, "unread_key: d.context"),
        ({"d": {"q": "x", "context": "z"}, "a": "y"}, QA | {"prompt": "{{ row['d'].q }}"}, "unread_key: d.context"),
        ({"q": "x", "a": "y"}, QA | {"prompt": "{{ q + 1 }}"}, "template_fails: TypeError"),
        ({"q": "x", "a": "y"}, QA | {"prompt": "{{ q.__class__.__mro__ }}"}, "template_fails: SecurityError"),
        ({"q": "x", "a": 1.5}, QA, "wrong_shape: completion"),
        ({"q": "x", "a": True}, QA, "wrong_shape: completion"),
        ({"q": "x", "a": ["y"]}, QA, "wrong_shape: completion"),
        ({"q": "x", "a": "y", "l": "maybe"}, QA | {"label": "l"}, "wrong_shape: label"),
        ({"q": "x", "a": "y", "l": 0.5}, QA | {"label": "l"}, "wrong_shape: label"),
        ({"m": "no json"}, {"messages": "m"}, "wrong_shape: messages"),
        ({"q": "x", "a": said("-", "y")[1:], "w": "z"}, QA | {"reasoning_content": "w"}, "unread_key: reasoning_content"),
        ({"q": "x", "a": "y", "t": '{"f": 1}'}, QA | {"tools": "t"}, "invalid_tools: name"),
        # what would change what is learned must be mapped, or said to be unwanted
        ({"q": "x", "a": "y", "context": "z"}, QA, "unread_key: context"),
        ({"q": "x", "a": "y", "tools": [TOOL]}, QA, "unread_key: tools"),
        ({"q": "x", "a": "y", "system_prompt": "z"}, QA, "unread_key: system_prompt"),
        ({"d": {"q": "x", "a": "y", "system": "z"}}, {"prompt": "d.q", "completion": "d.a"}, "unread_key: d.system"),
        ({"d": json.dumps({"q": "x", "a": "y", "system": "z"})}, {"prompt": "d.q", "completion": "d.a"}, "unread_key: d.system"),
        ({"t": [{"q": "x", "a": "y", "weight": 0}]}, {"prompt": "t[0].q", "completion": "t[0].a"}, "unread_key: t.weight"),
        ("x", QA, "not_an_object"),
        ({"q": "\ud800", "a": "y"}, QA, "invalid_unicode"),
    ],
)  # fmt: skip
def test_what_cannot_be_mapped_is_counted(row, columns, reason):
    assert refused(row, **columns) == reason


def test_nulls_print_nothing_and_columns_come_before_methods():
    """Filters and `~` of jinja make the word None of a null; `row.items` is a method of Python's."""
    row = {"q": "x", "input": None, "items": "i", "d": {"values": "v"}, "n": ["y", None], "a": "y"}
    for template, right in (
        ("{{ q ~ input }}", "x"),
        ("{{ q }}{{ input | trim }}{{ input | string }}", "x"),
        ("{{ n | join('-') }}{{ n | tojson }}", 'y-["y", null]'),
        ("{{ q if input is none and input == none and not input }}{{ input or 'z' }}", "xz"),
        ("{{ row.items }}{{ items }}{{ d.values }}", "iiv"),
        ("{% for k, v in d.items() %}{{ k }}={{ v }}{% endfor %}", "values=v"),
    ):
        assert read(row, prompt=template, completion="a")[1]["prompt"] == right
    made, _ = read({"d": {"q": "x", "lang": "en"}, "a": "y", "text": "x y"}, prompt="{{ d.q }}", completion="a")
    assert made["meta"] == '{"d.lang":"en"}'


def test_messages_may_be_json_text_under_every_name():
    """A CSV has no other form; with its braces it would be learned as words."""
    row = {"q": json.dumps(said("q")), "a": json.dumps(said("-", "x")[1:]), "b": json.dumps(said("-", "y")[1:])}
    assert as_dialogue(read(row, **QA)[1]) == said("q", "x")
    assert as_pair(read(row, prompt="q", chosen="a", rejected="b")[1]) == (said("q"), said("-", "x")[1:], said("-", "y")[1:])
    # other JSON is an answer as it stands
    assert read({"q": "q", "a": '[{"city": "Oslo"}]'}, **QA)[1]["completion"] == '[{"city": "Oslo"}]'


def test_columns_that_are_not_wanted_are_named_or_say_nothing_new():
    row = {"q": "x", "a": "y", "context": "z", "prompt": "x", "images": [], "d": {"system": "s"}}
    assert read(row, **QA, ignore=["context"])[1] == {"prompt": "x", "completion": "y"}
    # a template may read all of a row
    assert read(row, prompt="{% for k in row if k == 'q' %}{{ row[k] }}{% endfor %}", completion="a")[1]["prompt"] == "x"
    assert refused({"d": {"q": "x", "a": "y", "system": "s"}}, prompt="d.q", completion="d.a") == "unread_key: d.system"
    assert read({"d": {"q": "x", "a": "y", "system": "s"}}, prompt="d.q", completion="d.a", ignore=["d.system"])


@pytest.mark.parametrize(
    ("columns", "words"),
    [
        ({"completion": "a"}, "nothing to learn"),
        ({"prompt": "q", "label": "l"}, "columns.label needs columns.completion"),
        ({"prompt": "q", "chosen": "a"}, "columns.chosen needs columns.rejected"),
        ({"prompt": "q", "completion": "a", "chosen": "b", "rejected": "c"}, "both a completion and chosen"),
        ({"text": "t", "prompt": "q"}, "stands alone"),
        ({"messages": "m", "prompt": "q"}, "whole dialogue"),
        ({"prompt": "{{ q", "completion": "a"}, "no jinja template"),
        ({"prompt": "{{ q | random }}", "completion": "a"}, "random"),
        ({"prompt": "q[x]", "completion": "a"}, "is no path"),
        ({"promt": "q"}, "Did you mean 'prompt'"),
    ],
)
def test_a_mapping_that_makes_no_sense_is_refused_before_anything_runs(columns, words):
    with pytest.raises(ValidationError, match=words.replace("(", r"\(")):
        Columns(**columns)


def test_what_a_row_has_is_listed_as_paths():
    assert columns_of(NESTED) == ("id", "data.lang", "data.turns[0].by", "data.turns[0].text")
    with pytest.raises(DataError, match="needs role and content"):
        as_dialogue({"prompt": "q", "completion": [{}]})
