"""What models for vectors and scores are asked."""

from __future__ import annotations

import json

import pytest

from raylm.serve.api.requests import Reader
from raylm.serve.config import Limits
from raylm.serve.envelope import Refused

HI = [{"role": "user", "content": "hi"}]


def check(path, task="embed", **fields):
    return Reader(Limits(num_inputs=4), 512, 1000, task=task).check(path, json.dumps({"model": "m", **fields}).encode())


@pytest.mark.parametrize("given", ["a", ["a", "b"], [1, 2], [[1], [2, 3]]])
def test_texts_and_token_ids_pass(given):
    assert check("/v1/embeddings", input=given, encoding_format="base64") == []


@pytest.mark.parametrize("given", [None, 5, [], [""] * 5, [1, 1000], [[1], [-1]], [["a"]], [True], {"a": 1}, ["a", 5]])
def test_what_is_no_text_is_refused(given):
    with pytest.raises(Refused) as caught:
        check("/v1/embeddings", input=given)
    assert (caught.value.refusal.status, caught.value.refusal.param) == (400, "input")


def test_pairs_and_dialogues():
    assert check("/v1/score", text_1="a", text_2=["b", "c"]) == []
    assert check("/v1/rerank", query="a", documents=["b", "c"]) == []
    assert check("/pooling", "score", messages=HI) == []
    assert check("/pooling", "score", input=["a"]) == []
    for path, fields in (("/v1/rerank", {"documents": ["a"] * 5, "query": "b"}), ("/v1/score", {"text_1": 5, "text_2": "a"})):
        with pytest.raises(Refused):
            check(path, **fields)


@pytest.mark.parametrize(
    ("task", "path"), [("embed", "/v1/chat/completions"), ("score", "/v1/embeddings"), ("embed", "/pooling")]
)
def test_other_routes_are_not_of_the_task(task, path):
    with pytest.raises(Refused, match="does not serve"):
        check(path, task, input="x", messages=HI)
