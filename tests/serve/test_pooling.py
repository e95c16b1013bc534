"""Vectors and rewards of tiny models, beside what transformers makes of the same tokens."""

from __future__ import annotations

import pytest

from raylm.model.load import load_tokenizer
from raylm.serve import tasks
from tests.model.tiny import tiny_checkpoint
from tests.serve.in_process import answers

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
