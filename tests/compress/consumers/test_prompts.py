"""Prompts of a proof: made the same each time, or the held-out ones of an artifact."""

from __future__ import annotations

import json

import pytest

from raylm.compress.config import Compress
from raylm.compress.consumers.prompts import made_prompts, stored_prompts
from raylm.core.artifact import Prompts
from raylm.core.errors import DataError
from tests.model.tiny import tiny_tokenizer
from tests.rows import make_rows


def rows(*messages):
    return [{"tokens": [1, 7], "messages": json.dumps(each), "ground_truth": "5"} for each in messages]


def test_half_are_conversations_where_there_is_a_template():
    tokenizer = tiny_tokenizer(300)
    made = made_prompts(tokenizer, 64)
    assert made == made_prompts(tokenizer, 64) and len(made) == 64
    assert sum(isinstance(each, str) for each in made) == 32
    assert len({json.dumps(each) for each in made}) == 64
    tokenizer.chat_template = None
    assert all(isinstance(each, str) for each in made_prompts(tokenizer, 5))
    # many templates take no system message: others are asked then
    tokenizer.chat_template = (
        "{% if messages[0].role == 'system' %}{{ raise_exception('no') }}{% endif %}{{ messages[0].content }}"
    )
    assert {talk[0]["role"] for talk in made_prompts(tokenizer, 12) if not isinstance(talk, str)} == {"user"}


def test_held_out_rows_are_asked_as_they_are(tmp_path):
    talk, call = [{"role": "user", "content": "a"}], [{"role": "user", "content": "b", "tool_calls": []}]
    stored = make_rows(tmp_path, "asked", Prompts, rows(talk, call, [{"role": "user", "content": "c"}]), held_out=2)
    # calls of tools are no text
    assert stored_prompts(stored.uri, 8) == [[{"role": "user", "content": "c"}]]
    with pytest.raises(DataError, match="no row here is a conversation of text alone"):
        stored_prompts(make_rows(tmp_path, "calls", Prompts, rows(call), held_out=1).uri, 8)


def test_prompts_are_for_formats_that_are_proved():
    asked = {"stage": "compress", "model": "m", "prompts": "asked"}
    assert Compress.model_validate({**asked, "format": {"kind": "gguf"}}).prompts == "asked"
    with pytest.raises(ValueError, match="format hugging_face is not proved by running it: drop prompts"):
        Compress.model_validate({**asked, "format": {"kind": "hugging_face"}})


def test_prompts_of_which_none_is_asked_are_refused():
    with pytest.raises(ValueError, match="parity_prompts = 0 proves nothing: drop prompts"):
        Compress.model_validate(
            {"stage": "compress", "model": "m", "prompts": "asked", "format": {"kind": "gguf", "parity_prompts": 0}}
        )
