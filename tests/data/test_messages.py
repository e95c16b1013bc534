"""Turns with calls, answers of tools, reasoning, names and parts, in every form that data sets write them, are one form."""

import json

import pytest

from raylm.core.errors import DataError
from raylm.data.messages import for_template, messages, plain, readable
from raylm.data.records import as_dialogue, as_pair, as_prompt, as_text, as_unpaired, read_row, tools_of

ASK = {"role": "user", "content": "Weather in Oslo?"}
ARGUMENTS = {"unit": "C", "city": "Oslo"}
CALL = {"type": "function", "function": {"name": "weather", "arguments": ARGUMENTS}}
CALLS = {"role": "assistant", "content": "", "tool_calls": [CALL]}
RESULT = {"role": "tool", "content": "-3"}
SAY = {"role": "assistant", "content": "It is -3 degrees."}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "d",
        "parameters": {"type": "object", "properties": {"unit": {"type": "string"}, "city": {"type": "string"}}},
    },
}
BARE = json.dumps({"name": "weather", "arguments": ARGUMENTS})
LEGACY = {"name": "weather", "arguments": json.dumps(ARGUMENTS)}


@pytest.mark.parametrize(
    "row",
    [
        # OpenAI, transformers, TRL; arguments as an object or as JSON text; Parquet's nulls
        {"messages": [ASK, CALLS, RESULT, SAY]},
        {"messages": [ASK, {"role": "assistant", "content": None, "tool_calls": [CALL | {"id": None}]}, RESULT, SAY]},
        {"messages": [ASK, {"role": "assistant", "tool_calls": [{"function": LEGACY}]}, RESULT | {"tool_calls": []}, SAY]},
        {"messages": [ASK, {"role": "assistant", "tool_calls": json.dumps([CALL])}, RESULT, SAY]},
        {"messages": [ASK, {"role": "assistant", "tool_calls": json.loads(BARE)}, RESULT, SAY]},
        # OpenAI's older form
        {"messages": [ASK, {"role": "assistant", "content": None, "function_call": LEGACY}, {**RESULT, "role": "function"}, SAY]},
        # ShareGPT as LLaMA-Factory has it, one call or a list; ms-swift
        {"conversations": [
            {"from": "human", "value": ASK["content"]}, {"from": "function_call", "value": BARE},
            {"from": "observation", "value": "-3"}, {"from": "gpt", "value": SAY["content"]},
        ]},
        {"conversations": [
            {"from": "human", "value": ASK["content"]}, {"from": "function_call", "value": f"[{BARE}]"},
            {"from": "tool", "value": "-3"}, {"from": "gpt", "value": SAY["content"]},
        ]},
        {"messages": [ASK, {"role": "tool_call", "content": BARE}, {"role": "tool_response", "content": "-3"}, SAY]},
        # TRL's prompt + completion
        {"prompt": [ASK, CALLS, RESULT], "completion": [SAY]},
        {"prompt": [ASK], "completion": [CALLS, RESULT, SAY]},
    ],
)  # fmt: skip
def test_calls_have_one_form(row):
    assert as_dialogue(row) == [ASK, CALLS, RESULT, SAY]
    # keys of arguments stay in the order of the row, as templates write them
    assert list(as_dialogue(row)[1]["tool_calls"][0]["function"]["arguments"]) == ["unit", "city"]
    assert as_prompt({**row, "completion": [SAY]} if "completion" in row and row["completion"][0] is SAY else row)[0][0] == ASK


@pytest.mark.parametrize(
    "tools",
    [
        [TOOL], json.dumps([TOOL]), [json.dumps(TOOL)], TOOL, json.dumps(TOOL), [TOOL["function"]],
        json.dumps([TOOL["function"]]),
        [{**TOOL["function"], "parameters": json.dumps(TOOL["function"]["parameters"])}],
    ],
)  # fmt: skip
@pytest.mark.parametrize("column", ["tools", "functions"])
def test_tools_of_a_row_have_one_form(tools, column):
    row = {"messages": [ASK, SAY], column: tools}
    assert tools_of(row) == [TOOL] and as_dialogue(row) == [ASK, SAY]
    assert tools_of({"messages": [ASK, SAY], "tools": "[]", "functions": None}) is None
    for function, shape in (
        (as_prompt, {"prompt": [ASK]}),
        (as_pair, {"prompt": [ASK], "chosen": [CALLS], "rejected": [SAY]}),
        (as_unpaired, {"prompt": "q", "completion": "a", "label": True}),
    ):
        assert function({**shape, column: tools})


def test_a_stored_row_keeps_the_order_of_schemas_and_arguments():
    """Sorted keys would render another text than transformers does; all else is sorted, as rows always were."""
    row = {"tools": [TOOL], "messages": [ASK, {"tool_calls": [CALL], "role": "assistant"}, RESULT, SAY]}
    made = read_row(row, None, "f", 0, 1)
    assert isinstance(made, dict) and list(stored := json.loads(made["record"])) == ["messages", "tools"]
    assert json.dumps(stored["tools"]) == json.dumps([TOOL]) and json.dumps(stored["messages"][1]["tool_calls"]) == json.dumps(
        [CALL]
    )
    assert list(stored["messages"][1]) == ["role", "tool_calls"] and tools_of(stored) == [TOOL]
    # filters and searches see what is called, too
    assert (
        "Oslo" in made["text"].split("\n\n")[1] and as_text({"messages": [ASK, SAY]}) == f"{ASK['content']}\n\n{SAY['content']}"
    )


@pytest.mark.parametrize("key", ["reasoning_content", "reasoning", "thinking", "thought"])
def test_reasoning_of_a_turn_is_kept(key):
    turns = messages([ASK, SAY | {key: "cold there"}], "messages")
    assert turns == [ASK, SAY | {"reasoning_content": "cold there"}]
    assert readable(turns[1]) == f"cold there\n\n{SAY['content']}" and readable(turns[0]) == ASK["content"]
    with pytest.raises(DataError, match="unread_key: reasoning_content"):
        plain(turns)
    assert messages([SAY | {key: "", "tool_calls": None}], "messages") == [SAY]


def test_thoughts_before_a_call_in_words_are_reasoning():
    turns = messages([{"from": "function_call", "value": f"<think>\ncold?\n</think>\n{BARE}"}], "conversations")
    assert turns == [CALLS | {"reasoning_content": "cold?"}]


def test_names_ids_and_weights_are_kept():
    call = {"type": "function", "id": "c1", "function": CALL["function"]}
    answer = {"role": "tool", "content": "-3", "tool_call_id": "c1", "name": "weather"}
    row = {"messages": [ASK | {"name": "Ada"}, {**CALLS, "tool_calls": [call], "train": False}, answer, SAY]}
    turns = as_dialogue(row)
    assert turns == [ASK | {"name": "Ada"}, {**CALLS, "tool_calls": [call], "weight": 0}, answer, SAY]
    assert for_template(turns)[1] == {**CALLS, "tool_calls": [call]}
    # those of others count where a form learns what others say
    assert messages([ASK | {"train": False}, SAY], "messages") == [ASK | {"weight": 0}, SAY]
    # keys of a call stay in order, for templates that write it whole
    odd = {"id": "c1", "type": "function", "function": CALL["function"], "index": 0}
    assert list(messages([{**CALLS, "tool_calls": [odd]}], "messages")[0]["tool_calls"][0]) == ["id", "type", "function"]


def test_parts_of_text_are_joined():
    parts = [{"type": "text", "text": "Weather ", "image_url": None}, {"type": "text", "text": "in Oslo?"}]
    assert messages([{"role": "user", "content": parts}], "messages") == [ASK]


def _with(calls):
    return {"messages": [ASK, {"role": "assistant", "content": "", "tool_calls": calls}, SAY]}


def _part(part):
    return {"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, part]}, SAY]}


def _answered(*turns):
    return {"messages": [ASK, *turns, SAY]}


IDS = [CALL | {"id": "a"}, CALL | {"id": "b"}]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        (_with([{"name": "f", "arguments": '{"a": 1'}]), "invalid_tool_call: arguments"),
        (_with([{"name": "f", "arguments": "[1]"}]), "invalid_tool_call: arguments"),
        (_with([{"name": "f", "arguments": '{"a": NaN}'}]), "invalid_tool_call: arguments"),
        (_with([{"name": "f", "arguments": 3}]), "invalid_tool_call: arguments"),
        (_with([{"name": "", "arguments": {}}]), "invalid_tool_call: name"),
        (_with([{"type": "custom", "name": "f"}]), "invalid_tool_call: type"),
        (_with(["f"]), "invalid_tool_call: json"),
        (_with("f(1)"), "invalid_tool_call: json"),
        (_with([{"name": "f", "parameters": {"a": 1}}]), "unread_key: tool_calls.parameters"),
        ({"conversations": [{"from": "human", "value": "q"}, {"from": "function_call", "value": "f(1)"}]},
         "invalid_tool_call: json"),
        (_answered(ASK | {"tool_calls": [CALL]}), "unread_key: messages.tool_calls"),
        (_answered({**CALLS, "function_call": LEGACY}), "unread_key: messages.function_call"),
        (_answered(SAY | {"thinking": "a", "reasoning": "b"}), "unread_key: messages.thinking"),
        (_answered(SAY | {"thinking": ["a"]}), "unread_key: messages.thinking"),
        (_answered(SAY | {"tool_call_id": "c"}), "unread_key: messages.tool_call_id"),
        (_answered({"role": "assistant", "content": None}), "wrong_shape: messages"),
        (_part({"type": "image"}), "part_not_text: image"),
        (_part({"type": "image_url", "image_url": {"url": "x"}}), "part_not_text: image_url"),
        (_part({"type": "input_audio"}), "part_not_text: input_audio"),
        (_part({"type": "video"}), "part_not_text: video"),
        (_part({"image": "x.png"}), "part_not_text: image"),
        (_part({"type": "text", "text": "a", "image": "x.png"}), "part_not_text: image"),
        (_part("bare"), "wrong_shape: messages"),
        (_answered({"role": "asistant", "content": "x"}), "unknown_role: asistant"),
        (_answered({"role": "<|im_start|>", "content": "x"}), "unknown_role"),
        (_answered(CALLS, RESULT, RESULT), "tool_answers_no_call"),
        (_answered(RESULT, CALLS), "tool_answers_no_call"),
        (_answered({**CALLS, "tool_calls": IDS}, RESULT | {"tool_call_id": "c"}), "tool_answers_no_call"),
        (_answered(RESULT | {"tool_call_id": "c"}), "tool_answers_no_call"),
        ({"messages": [ASK, SAY], "tools": "weather"}, "invalid_tools: json"),
        ({"messages": [ASK, SAY], "tools": 3}, "invalid_tools: json"),
        ({"messages": [ASK, SAY], "tools": ["[1]"]}, "invalid_tools: json"),
        ({"messages": [ASK, SAY], "tools": [{"description": "x"}]}, "invalid_tools: name"),
        ({"messages": [ASK, SAY], "tools": [{"type": "function", "function": {"description": "x"}}]}, "invalid_tools: name"),
        ({"messages": [ASK, SAY], "tools": [{"type": "web_search"}]}, "invalid_tools: type"),
        ({"messages": [ASK, SAY], "tools": [{"name": "f", "parameters": "x"}]}, "invalid_tools: parameters"),
        ({"messages": [ASK, SAY], "tools": [{"name": "f", "parameters": {"type": "string"}}]}, "invalid_tools: parameters"),
        ({"messages": [ASK, SAY], "tools": [{"name": "f", "parameters": {"properties": {"a": 1}}}]}, "invalid_tools: parameters"),
        ({"messages": [ASK, SAY], "tools": [TOOL], "functions": [{"name": "other"}]}, "unread_key: functions"),
        ({"messages": [ASK, SAY | {"tools": [TOOL]}]}, "unread_key: messages.tools"),
        ({"messages": [ASK, SAY | {"train_detail": [{"begin_offset": 0, "end_offset": 3, "train": False}]}]},
         "unread_key: messages.train_detail"),
        ({"messages": [ASK, SAY | {"loss_scale": 0.3}]}, "unread_key: messages.loss_scale"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_counted_by_its_reason(row, what):
    with pytest.raises(DataError) as caught:
        as_dialogue(row)
    assert caught.value.what == what
    assert read_row(row, None, "f", 0, 1).reason == what


def test_answers_find_their_calls():
    two = {**CALLS, "tool_calls": IDS}
    later, first = RESULT | {"tool_call_id": "b"}, RESULT | {"tool_call_id": "a"}
    assert len(as_dialogue(_answered(two, later, first))) == 5
    assert len(as_dialogue(_answered(two, RESULT, SAY, CALLS, RESULT))) == 7
    # calls that stand in the words (Hermes, Glaive) have no ids to be looked at
    assert len(as_dialogue(_answered(SAY | {"content": "<tool_call>{}</tool_call>"}, RESULT))) == 4


def test_either_answer_of_a_pair_may_call():
    asked, chosen, rejected = as_pair({"prompt": [ASK], "chosen": [CALLS], "rejected": [SAY], "tools": [TOOL]})
    assert (asked, chosen, rejected) == ([ASK], [CALLS], [SAY])
    shared = as_pair({"chosen": [ASK, CALLS, RESULT, SAY], "rejected": [ASK, CALLS, RESULT, SAY | {"content": "Warm."}]})
    assert shared[0] == [ASK, CALLS, RESULT] and shared[1] == [SAY]
    with pytest.raises(DataError, match="tool_answers_no_call"):
        as_pair({"prompt": [ASK], "chosen": [CALLS, RESULT, SAY], "rejected": [CALLS, RESULT, RESULT]})
    assert as_prompt({"messages": [ASK, CALLS, RESULT, SAY]}) == ([ASK, CALLS, RESULT], None)
