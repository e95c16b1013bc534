"""The chat template of a tokenizer that is trained here, on dialogues with tools."""

from __future__ import annotations

import json

import pytest
from tokenizers import Tokenizer, decoders, models, pre_tokenizers

from raylm.data.records import as_dialogue, tools_of
from raylm.data.sources.python_questions import PythonQuestions
from raylm.model.tokenizer import read_tokenizer
from raylm.tokenize.forms.chat import Chat
from raylm.tokenize.trainers.layout import SPECIALS, save


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    at = tmp_path_factory.mktemp("tokenizer")
    plain = Tokenizer(
        models.BPE(vocab={token: at for at, token in enumerate((*SPECIALS, *pre_tokenizers.ByteLevel.alphabet()))}, merges=[])
    )
    plain.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    plain.decoder = decoders.ByteLevel()
    save(plain, at)
    return read_tokenizer(str(at))


def test_tools_calls_and_answers_are_rendered_and_what_the_assistant_writes_is_learned(tokenizer):
    source = PythonQuestions(num_rows=5, tools=True)
    row = json.loads(next(source.read(source.units()[0]))["record"])
    name, kind = row["messages"][1]["tool_calls"][0]["function"]["arguments"]["name"], row["messages"][2]["content"]
    chat = Chat(tokenizer)
    assert chat.left_out(tools_of(row)) == []
    tokens, mask = chat.dialogue(as_dialogue(row), tools_of(row))
    expected = tokenizer.apply_chat_template(
        row["messages"], tools=row["tools"], tokenize=True, return_dict=True, return_assistant_tokens_mask=True
    )
    assert tokens == expected["input_ids"] and mask == expected["assistant_masks"]
    text = tokenizer.decode(tokens)
    assert json.loads(text.split("<tools>\n")[1].split("\n</tools>")[0]) == row["tools"][0]
    assert f"<|user|><tool_response>\n{kind}\n</tool_response><|end|>" in text
    learned = tokenizer.decode([token for token, one in zip(tokens, mask, strict=True) if one])
    call = f'<tool_call>\n{{"name": "kind_of", "arguments": {{"name": "{name}"}}}}\n</tool_call><|end|>'
    assert learned == f"{call}{row['messages'][3]['content']}<|end|>"


def test_tools_stand_behind_the_system_prompt_and_plain_dialogues_are_as_they_were(tokenizer):
    turns = [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "Hi"}]
    plain = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert plain == "<|bos|><|system|>Be brief.<|end|><|user|>Hi<|end|><|assistant|>"
    tools = [{"type": "function", "function": {"name": "f", "parameters": {"type": "object", "properties": {}}}}]
    text = tokenizer.apply_chat_template(turns, tools=tools, tokenize=False)
    assert text.startswith("<|bos|><|system|>Be brief.\n\n<tools>\n") and text.count("Be brief.") == 1
