"""What a chat's settings become in a request."""

from __future__ import annotations

import json

import pytest

from raylm.serve.api.requests import Reader
from raylm.serve.config import Limits
from raylm.serve.demo.sampling import MOST_BEAMS, MOST_LOGPROBS, Sampling


def test_nothing_set_is_left_to_the_endpoint():
    assert Sampling().request() == {"stream": True, "stream_options": {"include_usage": True}}


def test_what_openai_does_not_know_goes_beyond_it():
    asked = Sampling(
        temperature=0.7, top_p=0.9, top_k=40, min_p=0.1, repetition_penalty=1.1, seed=3, max_tokens=9, top_logprobs=5
    )
    request = asked.request()
    assert request.pop("extra_body") == {"top_k": 40, "min_p": 0.1, "repetition_penalty": 1.1}
    assert {name: request[name] for name in ("temperature", "top_p", "seed", "max_tokens")} == {
        "temperature": 0.7, "top_p": 0.9, "seed": 3, "max_tokens": 9,
    }  # fmt: skip
    assert (request["logprobs"], request["top_logprobs"]) == (True, 5)


def test_beam_search_is_not_streamed_and_draws_nothing():
    request = Sampling(beam_width=4, temperature=0.7, top_k=40, max_tokens=9).request()
    assert request == {"max_tokens": 9, "n": 4, "temperature": 0.0, "extra_body": {"use_beam_search": True}}
    assert not Sampling(beam_width=4).streams


def test_settings_come_from_texts_and_are_refused_in_words():
    asked = Sampling().setting("temperature", "0.5").setting("top_k", "3")
    assert asked.chosen() == {"temperature": 0.5, "top_k": 3}
    assert asked.setting("top_k", "default").chosen() == {"temperature": 0.5}
    for name, text, said in (
        ("temprature", "1", "no setting 'temprature'; there are temperature"),
        ("temperature", "3", "temperature is 3; it goes from 0 to 2"),
        ("top_k", "1.5", "top_k takes a whole number, not '1.5'"),
        ("temperature", "hot", "temperature takes a number, not 'hot'"),
        ("temperature", "nan", "temperature is nan"),
        ("beam_width", str(MOST_BEAMS + 1), "beam_width is 11"),
    ):
        with pytest.raises(ValueError, match=said):
            asked.setting(name, text)


@pytest.mark.parametrize(
    "asked",
    [
        Sampling(),
        Sampling(temperature=0.0, max_tokens=512, top_logprobs=MOST_LOGPROBS),
        Sampling(temperature=0.7, top_p=0.9, top_k=200, min_p=0.1, repetition_penalty=1.1, seed=3, max_tokens=9),
        Sampling(beam_width=MOST_BEAMS, max_tokens=9, top_logprobs=MOST_LOGPROBS),
    ],
)
def test_the_door_takes_all_that_can_be_set(asked):
    request = asked.request()
    body = {"model": "m", "messages": [{"role": "user", "content": "hi"}], **request.pop("extra_body", {}), **request}
    assert Reader(Limits(), max_len=4096, vocab=100).check("/v1/chat/completions", json.dumps(body).encode()) == []
    # and the engine gives as many log-probabilities as its beams ask for
    assert Limits().num_logprobs >= 2 * MOST_BEAMS
