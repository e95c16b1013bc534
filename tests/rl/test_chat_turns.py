"""Chat templates of real families as an environment needs them: which keep earlier turns, and what is told of the others."""

from __future__ import annotations

import copy

import pytest

from raylm.core.errors import ConfigError
from raylm.model.checkpoint import turn_end
from raylm.rl.chat_turns import ChatTurns
from raylm.rl.tool_calls import read_hermes
from tests.rl.talk import coder_of
from tests.tokenize.templates import TOOLS, chat_of, templates

FILES = {path.stem: path for path in templates()}


def turns_of(name, tools=TOOLS, ends=None):
    coder, _ = chat_of(coder_of(), FILES[name].read_text())
    return ChatTurns(coder, [turn_end(coder)] if ends is None else ends, tools)


@pytest.mark.parametrize("name", ["qwen2_5", "qwen3", "qwen3_instruct_2507", "qwen3_training"])
def test_tools_of_qwen_models(name):
    chat = turns_of(name)
    chat.check(("tool",))
    assert chat.parser == "hermes"
    # what is between two turns is the difference of what is rendered before and behind, as tokens
    asked = [{"role": "user", "content": "Rain?"}]
    tokens, before = chat.prompt(asked)
    said = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris"}}\n</tool_call>'
    drawn = [*chat._coder.encode(said, add_special_tokens=False), chat._end]
    text, parsed, ended_well = chat.parse(drawn)
    assert text == said and parsed.calls == [{"name": "weather", "arguments": {"city": "Paris"}}] and ended_well
    turn = {"role": "assistant", "content": "", "tool_calls": [{"id": "c", "type": "function", "function": parsed.calls[0]}]}
    suffix = chat.suffix(before, [*asked, turn], text, [{"role": "tool", "content": "wet", "tool_call_id": "c"}])
    whole = chat._coder.decode([*tokens, *drawn, *suffix.tokens])
    assert whole.endswith(
        "<|im_end|>\n<|im_start|>user\n<tool_response>\nwet\n</tool_response><|im_end|>\n<|im_start|>assistant\n"
    )
    # the training form of qwen3's template puts an empty thought before a turn that had none: that is seen
    assert suffix.rewritten == (whole != suffix.rendered) == (name == "qwen3_training")


@pytest.mark.parametrize(
    ("name", "speaks", "said"),
    [
        # thoughts of earlier turns are dropped once the user speaks again, not once a tool does
        ("qwen3", ("user",), "writes earlier turns anew once the environment has answered"),
        ("phi3", ("tool",), "does not tell in which form the model calls tools"),
        ("deepseek_r1_distill", ("user",), "writes earlier turns anew"),
    ],
)
def test_templates_that_do_not_go_with_an_environment_are_refused(name, speaks, said):
    with pytest.raises(ConfigError, match=said):
        turns_of(name, TOOLS if "tool" in speaks else []).check(speaks)


@pytest.mark.parametrize("name", ["llama3", "gemma3", "qwen2_5", "qwen3_training"])
def test_a_game_that_speaks_as_the_user(name):
    turns_of(name, []).check(("user",))


def test_the_generator_must_stop_where_the_template_ends_a_turn():
    with pytest.raises(ConfigError, match="no token at which the generator stops"):
        turns_of("qwen2_5", ends=[0])
    bare = copy.deepcopy(coder_of())
    bare.chat_template = None
    with pytest.raises(ConfigError, match="has no chat template"):
        ChatTurns(bare, [2], [])


@pytest.mark.parametrize(
    ("text", "content", "calls", "error"),
    [
        ("It is 42.", "It is 42.", [], ""),
        ('a <tool_call>{"name": "f", "arguments": {}}</tool_call> b', "a", [{"name": "f", "arguments": {}}], ""),
        # an end that is missing behind whole JSON
        ('<tool_call>\n{"name": "f", "arguments": {"x": 1}}', "", [{"name": "f", "arguments": {"x": 1}}], ""),
        ('<tool_call>{"name": "f", "arguments": {', None, [], "a call is no JSON"),
        ('<tool_call>["f"]</tool_call>', None, [], "a call is a JSON object"),
        ('<tool_call>{"arguments": {}}</tool_call>', None, [], "needs the `name`"),
        ('<tool_call>{"name": "f", "arguments": "x"}</tool_call>', None, [], "are no JSON object"),
        # one that cannot be read takes the whole turn with it, as it would be served
        ('<tool_call>{"name": "f", "arguments": {}}</tool_call><tool_call>x</tool_call>', None, [], "a call is no JSON"),
    ],
)
def test_calls_in_hermes_form(text, content, calls, error):
    found = read_hermes(text)
    assert found.content == (text if content is None else content) and found.calls == calls
    assert bool(found.errors) == bool(error) and all(error in each for each in found.errors)
