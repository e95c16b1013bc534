"""Prompts of a file and of an audit log, as an engine is asked them."""

from __future__ import annotations

import json

import pytest

from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.serve.audit import audit_folder
from raylm.serve.tune.prompts import MOST, encoded, read_audit, read_prompts, spread
from tests.model.tiny import tiny_tokenizer


def test_lines_of_a_file(tmp_path):
    turns = [{"role": "user", "content": "Why?"}]
    lines = ["plain text", "", json.dumps("a\nb"), json.dumps({"prompt": "p"}), json.dumps({"messages": turns}), "{not json"]
    (tmp_path / "asked").write_text("\n".join(lines))
    assert read_prompts(str(tmp_path / "asked")) == ["plain text", "a\nb", "p", turns, "{not json"]
    (tmp_path / "wrong").write_text('{"question": "q"}\n')
    with pytest.raises(DataError, match=r"wrong:1: no prompt"):
        read_prompts(str(tmp_path / "wrong"))
    with pytest.raises(DataError, match="no such file"):
        read_prompts(str(tmp_path / "nowhere"))


def test_what_clients_asked(tmp_path):
    endpoint = tmp_path / "job" / "api"
    with pytest.raises(DataError, match="no text of a request"):
        read_audit(str(endpoint))
    at = tmp_path / "job" / ".audit" / "api"
    assert str(at) == audit_folder(Folder(endpoint))
    at.mkdir(parents=True)
    bodies = [{"messages": [{"role": "user", "content": "Hi"}]}, {"prompt": "go on"}, {"input": "x"}, {"prompt": [1, 2]}]
    lines = [json.dumps({"path": "/v1/x", "body": json.dumps(body)}) for body in bodies]
    (at / "2026-01-01-a.jsonl").write_text("\n".join([*lines, json.dumps({"body": '{"prompt": "cut'}), '{"body"']))
    assert read_audit(str(endpoint)) == [bodies[0]["messages"], "go on"]


def test_prompts_are_rendered_as_the_endpoint_does():
    tokenizer = tiny_tokenizer(300)
    (chat,) = encoded(["Hi"], tokenizer, 50)
    assert tokenizer.decode(chat) == "<|bos|><|user|>Hi<|end|><|assistant|>"
    with pytest.raises(DataError, match="none of 1 prompts leaves room"):
        encoded(["word " * 90], tokenizer, 50)
    tokenizer.chat_template = None
    assert encoded(["Hi", "word " * 90], tokenizer, 50) == [tokenizer("Hi")["input_ids"]]
    assert len(spread(list(range(1000)))) == MOST and spread([1, 2]) == [1, 2]


def test_what_was_refused_is_no_prompt(tmp_path):
    at = tmp_path / "job" / ".audit" / "api"
    at.mkdir(parents=True)
    lines = [json.dumps({"body": json.dumps(body)}) for body in ({"messages": ["Hi"]}, {"messages": [7]}, {"prompt": "go on"})]
    (at / "2026-01-01-a.jsonl").write_text("\n".join(lines))
    assert read_audit(str(tmp_path / "job" / "api")) == ["go on"]
