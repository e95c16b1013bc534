"""The demo against a real engine behind the real door: what it asks for is served, and the probabilities are the model's."""

from __future__ import annotations

import asyncio

import pytest

from raylm.model.load import load_tokenizer
from raylm.serve.demo.answers import Answer, Place, ask
from raylm.serve.demo.sampling import Sampling
from tests.serve.in_process import KEY, running, write_checkpoint

pytestmark = [pytest.mark.vllm, pytest.mark.slow, pytest.mark.long]
HELLO = [{"role": "user", "content": "hello there"}]


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    with running(write_checkpoint(tmp_path_factory.mktemp("model"))) as one:
        yield one


def answer(endpoint, **sampling) -> Answer:
    async def last():
        return [grown async for grown in ask(Place(endpoint.url, KEY), "raylm", HELLO, Sampling(**sampling))][-1]

    said = asyncio.run(last())
    assert (said.state, said.why) == ("done", "")
    return said


def test_probabilities_are_those_of_the_model(endpoint):
    """Greedy tokens and their log-probabilities against transformers, over the same prompt."""
    import torch
    from transformers import AutoModelForCausalLM

    said = answer(endpoint, temperature=0.0, max_tokens=6, top_logprobs=3)
    assert (said.served, said.dtype, said.num_tokens) == ("f00d", "float32", len(said.tokens))
    model, tokenizer = AutoModelForCausalLM.from_pretrained(endpoint.model).eval(), load_tokenizer(str(endpoint.model))
    ids = tokenizer.apply_chat_template(HELLO, add_generation_prompt=True, return_dict=False)
    for token in said.tokens:
        with torch.no_grad():
            logprobs = model(torch.tensor([ids])).logits[0, -1].log_softmax(-1)
        values, best = logprobs.topk(3)
        assert token.logprob == pytest.approx(float(values[0]), abs=1e-4)
        assert [logprob for _, logprob in token.top] == pytest.approx(values.tolist(), abs=1e-4)
        ids.append(int(best[0]))


def test_sampling_reaches_the_engine(endpoint):
    greedy = answer(endpoint, temperature=0.0, max_tokens=8).text
    assert answer(endpoint, temperature=1.5, top_k=1, max_tokens=8).text == greedy
    assert answer(endpoint, temperature=1.5, top_p=0.001, max_tokens=8).text == greedy
    drawn = {answer(endpoint, temperature=1.5, seed=seed, max_tokens=8).text for seed in (1, 1, 2, 3)}
    assert 1 < len(drawn) <= 3


def test_beam_search_passes_the_door_and_beats_greedy(endpoint):
    def total(said):
        return sum(token.logprob for token in said.tokens)

    greedy = answer(endpoint, temperature=0.0, max_tokens=6, top_logprobs=1)
    beams = answer(endpoint, beam_width=8, max_tokens=6, top_logprobs=1)
    assert len(beams.beams) == 7
    assert total(beams) >= total(greedy) - 1e-4
    scores = [beam.logprob for beam in beams.beams]
    assert scores == sorted(scores, reverse=True) and total(beams) >= scores[0]
