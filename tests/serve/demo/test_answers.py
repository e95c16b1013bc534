"""Answers of a scripted endpoint: streams, probabilities, beams, failures, tries."""

from __future__ import annotations

import asyncio
import math

import pytest

from raylm.serve.demo import answers
from raylm.serve.demo.answers import Answer, Place, Token, ask, models
from raylm.serve.demo.sampling import Sampling
from tests.serve.demo.scripted import KEY, SAID, scripted


def answer(place: Place, question: str, **sampling) -> tuple[Answer, list[str]]:
    """The finished answer, and the states that it went through."""

    async def follow():
        states: list[str] = []
        async for grown in ask(place, "tiny", [{"role": "user", "content": question}], Sampling(**sampling)):
            states += [grown.state] if states[-1:] != [grown.state] else []
        return grown, states

    return asyncio.run(follow())


@pytest.fixture(scope="module")
def server():
    with scripted("tiny") as one:
        yield one


@pytest.fixture
def place(server):
    server.seen.clear()
    return Place(server.url, KEY)


def test_an_answer_tells_its_text_its_tokens_and_who_gave_it(server, place):
    said, states = answer(place, "hello", top_logprobs=3, temperature=0.0)
    assert said.text == "(tiny, 1 messages) " + "".join(text for text, *_ in SAID)
    assert states == ["streaming", "done"]
    assert (said.served, said.dtype, said.request_id, said.finish) == ("fingerprint-of-tiny", "float32", "r1", "stop")
    assert (said.prompt_tokens, said.num_tokens) == (5, len(SAID) + 1)
    assert 0 < said.first_s <= said.seconds
    assert [token.text for token in said.tokens[1:]] == [text for text, *_ in SAID]
    paris = said.tokens[4]
    assert paris == Token(
        " **Paris**", math.log(0.34), ((" Lyon", math.log(0.4)), (" **Paris**", math.log(0.34)), ("<b>Nice</b>", math.log(0.2)))
    )
    assert server.seen[0]["temperature"] == 0.0
    assert "top_k" not in server.seen[0]


def test_beams_come_as_a_whole_with_the_best_one_first(server, place):
    said, states = answer(place, "hello", beam_width=3, top_logprobs=2)
    assert states == ["waiting", "done"]
    assert said.text == "the best beam"
    assert [(beam.text, beam.logprob) for beam in said.beams] == [
        ("the second <i>beam</i>", math.log(0.5)),
        ("the third beam", math.log(0.5)),
    ]
    assert (server.seen[0]["use_beam_search"], server.seen[0]["n"], server.seen[0].get("stream")) == (True, 3, None)


def test_failures_are_states_with_words(place):
    said, _ = answer(place, "refuse")
    assert (said.state, said.why) == ("refused", "The endpoint refused (400): the prompt is too long")
    said, _ = answer(place, "cut")
    assert (said.state, said.finish) == ("broken", "")
    assert said.text.startswith("(tiny")
    assert said.why == f"{place.url} broke off in the middle of the answer."
    said, _ = answer(Place(place.url, "wrong"), "hello")
    assert said.state == "refused" and "does not accept this key" in said.why


def test_what_fails_before_the_first_word_is_tried_again(server, place, monkeypatch):
    monkeypatch.setattr(answers, "FIRST_PAUSE_S", 0.01)
    said, states = answer(place, "lost")
    assert states == ["retrying", "streaming", "done"]
    assert len(server.seen) == 3
    said, states = answer(place, "busy")
    assert states == ["retrying", "streaming", "done"]
    assert said.text.startswith("(tiny")
    said, states = answer(Place("http://127.0.0.1:9/v1"), "hello")
    assert states == ["retrying", "unreachable"]
    assert said.why == "Nothing answers at http://127.0.0.1:9/v1; is the endpoint running?"


def test_the_key_is_in_no_repr(place):
    assert KEY not in repr(place)


def test_models_are_listed(place):
    assert asyncio.run(models(place)) == ["tiny"]
