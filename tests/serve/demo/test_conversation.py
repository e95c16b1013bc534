"""Conversations: what each side hears, answers side by side, stopping."""

from __future__ import annotations

import asyncio
import json
import time

import pytest

from raylm.serve.demo.answers import Answer, Place
from raylm.serve.demo.conversation import Choice, Conversation, Turn
from raylm.serve.demo.sampling import Sampling
from tests.serve.demo.scripted import KEY, scripted


@pytest.fixture
def server():
    with scripted("tiny", "small") as one:
        yield one


@pytest.fixture
def sides(server):
    return [Choice(Place(server.url, KEY), name) for name in server.models]


def talk(conversation, question, sides, **sampling):
    for _ in conversation.ask(question, sides, Sampling(**sampling)).in_thread():
        pass
    return conversation.turns[-1].answers


def test_each_side_hears_its_own_answers(server, sides):
    conversation = Conversation(system="be short")
    talk(conversation, "one", sides)
    talk(conversation, "refuse", sides)
    first, second = talk(conversation, "two", sides)
    assert first.text.startswith("(tiny, 4 messages)")
    assert second.text.startswith("(small, 4 messages)")
    heard = {each["model"]: each["messages"] for each in server.seen if each["messages"][-1]["content"] == "two"}
    for model, messages in heard.items():
        assert [each["role"] for each in messages] == ["system", "user", "assistant", "user"]
        assert messages[2]["content"].startswith(f"({model}, 2 messages)")


def test_what_failed_is_not_told_again_and_what_was_stopped_is():
    def turn(question, text, state):
        return Turn(question, [Answer("tiny", text=text, state=state)])

    told = Conversation(turns=[turn("a", "half", "stopped"), turn("b", "half", "broken"), turn("c", "", "done"), Turn("d")])
    assert [each["content"] for each in told.messages()] == ["a", "half", "d"]
    assert [each["content"] for each in told.messages(side=1)] == ["d"]


def test_a_stop_ends_both_sides_and_the_endpoint_hears_it(server, sides):
    conversation = Conversation()
    running = conversation.ask("slow", sides, Sampling())
    began = time.monotonic()
    for answers in running.in_thread():
        if all(len(each.text) > 40 for each in answers):
            running.stop()
    first, second = conversation.turns[-1].answers
    assert (first.state, second.state) == ("stopped", "stopped")
    assert time.monotonic() - began < 30
    assert server.left.wait(10)
    assert len(conversation.messages()) == 1 and conversation.take_back() == "slow"


def test_leaving_the_loop_stops_too(server, sides):
    conversation = Conversation()
    for _ in conversation.ask("slow", sides[:1], Sampling()).in_thread():
        break
    assert conversation.turns[-1].answers[0].state == "stopped"


def test_a_stop_before_the_first_word_needs_no_answer(server, sides):
    """An endpoint that holds the request: it is left at once."""

    async def stopped():
        conversation = Conversation()
        running = conversation.ask("hold", sides[:1], Sampling())
        asyncio.get_running_loop().call_later(0.2, running.stop)
        async for _ in running:
            pass
        return conversation.turns[-1].answers[0].state

    assert asyncio.run(asyncio.wait_for(stopped(), 20)) == "stopped"


def test_what_is_saved_holds_everything_but_keys_and_addresses(server, sides):
    conversation = Conversation(system="be short")
    talk(conversation, "one", sides, top_logprobs=2, temperature=0.5)
    saved = conversation.export()
    text = json.dumps(saved)
    assert KEY not in text and "127.0.0.1" not in text
    first = saved["turns"][0]["answers"][0]
    assert (first["model"], first["served"], first["sampling"]) == (
        "tiny",
        "fingerprint-of-tiny",
        {"temperature": 0.5, "top_logprobs": 2},
    )
    assert first["tokens"][1]["text"] == "The" and first["tokens"][1]["top"][1][0] == "A"
    read = conversation.markdown()
    assert read.startswith("> be short\n\n**You**\n\none\n\n**tiny**, weights fingerprint-of-tiny\n")
