"""vLLM's parsers of tool calls: our Hermes form against theirs, and families whose templates they read."""

from __future__ import annotations

import json

import pytest

from raylm.core.errors import ConfigError
from raylm.inference.vllm_private import vllm_parser
from raylm.model.checkpoint import turn_end
from raylm.rl.chat_turns import ChatTurns
from raylm.rl.tool_calls import read_hermes
from tests.rl.talk import coder_of
from tests.tokenize.templates import TOOLS, chat_of, templates

pytestmark = pytest.mark.vllm
FILES = {path.stem: path for path in templates()}


def test_our_hermes_form_is_theirs():
    read = vllm_parser("hermes", coder_of(), TOOLS)
    good = '<tool_call>\n{"name": "weather", "arguments": {"city": "Paris", "days": 2}}\n</tool_call>'
    for text in (
        "No call.", good, f"Look: {good}{good}", good.removesuffix("</tool_call>"), f"{good} and so",
        "<tool_call>x</tool_call>", f"{good}<tool_call>", '<tool_call>{"name": "weather"}</tool_call>',
    ):  # fmt: skip
        content, calls = read(text)
        ours = read_hermes(text)
        assert ours.calls == [{"name": call["name"], "arguments": json.loads(call["arguments"])} for call in calls]
        assert ours.content == content.strip()


@pytest.mark.parametrize(
    ("name", "parser"), [("llama3_1", "llama3_json"), ("qwen3_8", "qwen3_coder"), ("lfm2_v2", "lfm2"), ("gemma4_v2", "gemma4")]
)
def test_families(name, parser):
    coder, _ = chat_of(coder_of(), FILES[name].read_text())
    chat = ChatTurns(coder, [turn_end(coder)], TOOLS)
    chat.check(("tool",))
    assert chat.parser == parser
    # a call that breaks off is malformed, not an answer; Llama's begins like any JSON, and gemma's parser forgives it
    if parser in ("qwen3_coder", "lfm2"):
        tokens = [*coder.encode(f"{chat._mark}weather", add_special_tokens=False), turn_end(coder)]
        assert chat.parse(tokens)[1].errors == ["the call cannot be read"]


def test_what_vllm_cannot_read_is_refused_in_words():
    with pytest.raises(ConfigError, match=r"vLLM has no tool parser 'hermess'\. Did you mean 'hermes'\?"):
        vllm_parser("hermess", coder_of(), TOOLS)
    coder, _ = chat_of(coder_of(), FILES["gptoss"].read_text())
    with pytest.raises(ConfigError, match="tool parser 'openai' cannot be used here"):
        ChatTurns(coder, [turn_end(coder)], TOOLS).check(("tool",))
    coder, _ = chat_of(coder_of(), FILES["qwen2_5"].read_text())
    with pytest.raises(ConfigError, match="'llama3_json' does not take this tokenizer"):
        ChatTurns(coder, [turn_end(coder)], TOOLS, "llama3_json")
    with pytest.raises(ConfigError, match="the tool parser 'qwen3_coder' does not read it"):
        ChatTurns(coder, [turn_end(coder)], TOOLS, "qwen3_coder").check(("tool",))
