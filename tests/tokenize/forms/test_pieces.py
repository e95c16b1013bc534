"""Calls, names, ids and tools: what is said in them is all in the text, in its own turn, and forges no other."""

import pytest

from raylm.core.errors import DataError
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.forms.tool_schemas import check_tools
from tests.tokenize.samples import tokenizer, turn
from tests.tokenize.templates import ASK, LOOK, TOOLS, WET, call, chat_of, learned, said

# as Hermes and Qwen write calls
CALLS = (
    "{% for t in tools or [] %}{{ (t | tojson) + '\n' }}{% endfor %}{% for m in messages %}"
    "{{ '<|im_start|>' + m.role + '\n' + m.content }}{% for c in m.tool_calls or [] %}"
    "{{ '<tool_call>' + c.function.name + (c.function.arguments | tojson) + '</tool_call>' }}{% endfor %}{{ '<|im_end|>\n' }}"
    "{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
END = "<|im_end|>\n"
DRY, TWICE = turn("tool", "dry"), said(tool_calls=[call("a"), call("b")])


@pytest.fixture(scope="module")
def plain(tmp_path_factory):
    return tokenizer(tmp_path_factory.mktemp("coder"))


def reason(chat, turns, tools=TOOLS):
    with pytest.raises(DataError) as caught:
        chat.left_out(tools), chat.dialogue(turns, tools)
    return caught.value.what


def test_calls_are_learned_and_answers_of_tools_are_not(plain):
    coder, chat = chat_of(plain, CALLS)
    nested = call("weather", place={"city": 'Par"is\n', "at": [1, 2.5, None, True, "é"]}, a="", ab="x")
    turns = [ASK, said("I look.", tool_calls=[nested, call("now")]), WET, DRY, said("It rains."), ASK]
    tokens, mask = chat.dialogue(turns, TOOLS)
    written = (
        '<tool_call>weather{"place": {"city": "Par\\"is\\n", "at": [1, 2.5, null, true, "é"]}, "a": "", "ab": "x"}</tool_call>'
    )
    assert learned(coder, tokens, mask) == [f"I look.{written}<tool_call>now{{}}</tool_call>{END}", "It rains." + END]
    assert tokens == coder.apply_chat_template(turns, TOOLS, tokenize=True)["input_ids"]
    prompt, (answer,) = chat.answers([ASK], [LOOK], tools=TOOLS)
    assert prompt == coder.apply_chat_template([ASK], TOOLS, tokenize=True, add_generation_prompt=True)["input_ids"]
    assert prompt == chat.prompt([ASK], TOOLS)
    assert coder.decode(answer) == '<tool_call>weather{"city": "Paris", "days": 2}</tool_call>' + END


@pytest.mark.parametrize(
    ("change", "turns", "what"),
    [
        (("m.tool_calls or []", "[]"), [ASK, LOOK, WET, said("x")], "tool_calls"),
        (("m.tool_calls or []", "(m.tool_calls or [])[:1]"), [ASK, TWICE, said("x")], "tool_calls"),
        (("c.function.name +", "''+"), [ASK, LOOK, said("x")], "tool_calls"),
        (("c.function.arguments | tojson", "c.function.arguments.city"), [ASK, LOOK, said("x")], "tool_calls"),
        (("(c.function.arguments | tojson)", "'city Paris days'"), [ASK, LOOK, said("x")], "tool_calls"),
        (("tools or []", "[]"), [ASK, LOOK, said("x")], "tools"),
        (("t | tojson", "t.function.name"), [ASK, LOOK, said("x")], "tools"),
        (("", ""), [ASK | {"name": "ann"}, said("x")], "name"),
        (("", ""), [ASK, LOOK, WET | {"name": "other"}, said("x")], "name"),
        (("", ""), [ASK, said("x", reasoning_content="hm")], "reasoning"),
    ],
)  # fmt: skip
def test_what_a_template_leaves_out_is_named(plain, change, turns, what):
    _, chat = chat_of(plain, CALLS.replace(*change) if change[0] else CALLS)
    assert reason(chat, turns) == f"template_leaves_out: {what}"


def test_a_number_that_is_not_written_is_missed(plain):
    _, chat = chat_of(plain, CALLS.replace("c.function.arguments | tojson", "c.function.arguments | list | join(' ')"))
    assert reason(chat, [ASK, said(tool_calls=[call("f", n=71)]), said("x")]) == "template_leaves_out: tool_calls"


def test_answers_in_another_order_than_the_calls_need_their_ids(plain):
    turns = [ASK, said(tool_calls=[call("a") | {"id": "c1"}, call("b") | {"id": "c2"}])]
    ordered = [*turns, WET | {"name": "a", "tool_call_id": "c1"}, DRY | {"tool_call_id": "c2"}, said("x")]
    turned = [*turns, DRY | {"tool_call_id": "c2"}, DRY | {"tool_call_id": "c1"}, said("x")]
    _, chat = chat_of(plain, CALLS)
    assert sum(chat.dialogue(ordered, TOOLS)[1]) and reason(chat, turned) == "template_leaves_out: tool_call_id"
    _, chat = chat_of(plain, CALLS.replace("m.role +", "m.role + (m.tool_call_id or '') +"))
    assert sum(chat.dialogue(turned, TOOLS)[1])


def test_no_special_token_is_forged_in_calls_thoughts_names_or_tools(plain):
    _, chat = chat_of(plain, CALLS)
    forged = "<|im_end|>"
    schema = [{"type": "function", "function": {"name": "f", "parameters": {"properties": {"a": {"description": forged}}}}}]
    for turns, tools in (
        ([ASK, said(tool_calls=[call("f", a={"b": ["x", forged]})])], TOOLS),
        ([ASK, said(tool_calls=[call("f", **{forged: 1})])], TOOLS),
        ([ASK, said(tool_calls=[call(forged)])], TOOLS),
        ([ASK, said("x", reasoning_content=forged)], None),
        ([ASK | {"name": forged}, said("x")], None),
        ([ASK, said("x")], schema),
    ):
        with pytest.raises(DataError, match="special_token_in_text"):
            chat.dialogue(turns, tools)
        with pytest.raises(DataError, match="special_token_in_text"):
            chat.answers(turns[:1], turns[1:], tools=tools)
    with pytest.raises(DataError, match="special_token_in_text"):
        chat.prompt([ASK], schema)


def test_what_is_said_of_a_tool_may_be_left_out_and_is_told(plain):
    coder, _ = chat_of(plain, CALLS.replace("t | tojson", "t.function.name + ' ' + t.function.parameters.properties | join(' ')"))
    template = Chat(coder).template
    assert (
        check_tools(template, TOOLS) == ["tools.description"]
        and check_tools(Chat(chat_of(plain, CALLS)[0]).template, TOOLS) == []
    )
