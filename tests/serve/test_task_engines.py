"""Vectors and rewards of tiny models, beside what transformers makes of the same tokens; thoughts before an answer of a form."""

from __future__ import annotations

import pytest

from raylm.model.load import load_tokenizer
from raylm.serve.api import tasks
from tests.model.tiny import tiny_checkpoint
from tests.serve.in_process import answers, write_checkpoint

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.long]
HI = [{"role": "user", "content": "hi"}]
TEXTS = ["hello there", "what is a list?"]


def test_vectors_are_last_states_of_length_one(tmp_path):
    import torch
    from transformers import AutoModel

    model = tiny_checkpoint(tmp_path / "model")
    tokenizer, network = load_tokenizer(str(model)), AutoModel.from_pretrained(model)
    ids = [tokenizer.encode(text) for text in TEXTS]
    asked = [
        ("/v1/embeddings", {"model": "raylm", "input": TEXTS}),
        ("/v1/embeddings", {"model": "raylm", "input": ids}),
        ("/v1/score", {"model": "raylm", "text_1": TEXTS[0], "text_2": TEXTS}),
        ("/v1/chat/completions", {"model": "raylm", "messages": HI}),
    ]
    (status, found), (_, by_ids), (_, scores), (refused, _) = answers(model, tasks.VECTORS, asked)
    assert (status, refused) == (200, 404)
    assert found["usage"]["prompt_tokens"] == sum(map(len, ids))
    vectors = [each["embedding"] for each in found["data"]]
    assert vectors == [each["embedding"] for each in by_ids["data"]]
    for tokens, vector in zip(ids, vectors, strict=True):
        with torch.no_grad():
            state = network(torch.tensor([tokens])).last_hidden_state[0, -1]
        torch.testing.assert_close(torch.tensor(vector), state / state.norm(), atol=1e-4, rtol=1e-4)
    cosines = [sum(a * b for a, b in zip(vectors[0], vector, strict=True)) for vector in vectors]
    assert [each["score"] for each in scores["data"]] == pytest.approx(cosines, abs=1e-4)


def test_rewards_are_the_heads_own_numbers(tmp_path):
    import torch
    from transformers import AutoModelForSequenceClassification as Auto

    model = tiny_checkpoint(tmp_path / "model")
    tokenizer = load_tokenizer(str(model))
    torch.manual_seed(3)
    network = Auto.from_pretrained(model, num_labels=1)
    network.score.weight.data.normal_(std=2.0)
    network.save_pretrained(model)
    dialogues = [HI, [*HI, {"role": "assistant", "content": "hello"}]]
    asked = [("/pooling", {"model": "raylm", "messages": dialogue}) for dialogue in dialogues]
    for dialogue, (status, told) in zip(dialogues, answers(model, tasks.SCORES, asked), strict=True):
        ids = tokenizer.apply_chat_template(dialogue, tokenize=True, return_dict=False)
        with torch.no_grad():
            expected = network(torch.tensor([ids])).logits[0, 0].item()
        assert (status, told["usage"]["prompt_tokens"]) == (200, len(ids))
        # a probability would lie between 0 and 1
        assert told["data"][0]["data"] == pytest.approx([expected], abs=1e-4) and not 0 <= expected <= 1


def test_a_form_holds_from_the_end_of_the_thought(tmp_path):
    model = write_checkpoint(tmp_path / "model")
    close = load_tokenizer(str(model)).convert_tokens_to_ids("</think>")
    city = {"type": "object", "properties": {"city": {"enum": ["Oslo"]}}, "required": ["city"], "additionalProperties": False}
    form = {"type": "json_schema", "json_schema": {"name": "k", "schema": city}}
    asked = {"model": "raylm", "messages": HI, "max_tokens": 24, "temperature": 0, "response_format": form}
    thinking = {**asked, "logit_bias": {str(close): 100.0}}
    silent = {**asked, "chat_template_kwargs": {"enable_thinking": False}}
    requests = [("/v1/chat/completions", each) for each in (thinking, silent, asked)]
    turns = [told["choices"][0]["message"] for _, told in answers(model, tasks.TEXT, requests, "qwen3")]
    # one that closes its thought at once, one that is asked for none, and one that never ends thinking
    assert [turn["content"] for turn in turns] == ['{"city":"Oslo"}', '{"city":"Oslo"}', None]
    assert not turns[0]["reasoning"] and turns[2]["reasoning_content"]
