"""The Gradio page in a real browser, against a scripted endpoint: one page and one browser for all tests, in their order."""

from __future__ import annotations

import base64
import json
import re
import time

import pytest

from raylm.serve.demo.look import NOBODY, WAYS
from tests.browser import browser
from tests.serve.demo.pages import needs, started
from tests.serve.demo.scripted import KEY, scripted

pytestmark = needs("gradio")
QUESTION = "#question textarea"


@pytest.fixture(scope="module")
def server():
    with scripted("tiny", "small", pause_s=0.02) as one:
        yield one


@pytest.fixture(scope="module")
def other():
    """A second endpoint, with another model."""
    with scripted("elsewhere") as one:
        yield one


@pytest.fixture(scope="module")
def page(server, other):
    with started(server.url, "--second", other.url, key=KEY, RAYLM_API_KEY_2=KEY) as url:
        yield url


@pytest.fixture(scope="module")
def tab(page):
    with browser() as one:
        one.resize(1400, 900)
        one.goto(page)
        one.until("document.querySelector('#left input')?.value == 'tiny'")
        yield one


def ask(tab, text):
    settled(tab)
    tab.fill(QUESTION, text)
    tab.press("Enter")


def settled(tab):
    """The answer has ended: before that a question is not taken."""
    tab.until("document.querySelector('#send')?.offsetWidth && !document.querySelector('#stop')?.offsetWidth")


def choose(tab, selector, name):
    tab.click(f"{selector} input")
    tab.until("document.querySelectorAll('[role=option]').length > 0")
    tab.js(f"[...document.querySelectorAll('[role=option]')].find(e => e.innerText.includes({json.dumps(name)})).id = 'wanted'")
    tab.click("#wanted")


def way(tab, name):
    tab.click("#way label", WAYS.index(name))


def test_two_endpoints_answer_side_by_side_and_tell_who_they_are(tab, server, other):
    tab.until("document.querySelector('#right input').value == 'elsewhere'")
    tab.shows("#chat1", "Ask something below.")
    ask(tab, "What is the capital of France?")
    tab.shows("#facts0", "tokens/s")
    tab.shows("#facts1", "tokens/s")
    assert "(tiny, 1 messages) The capital is Paris." in tab.text("#chat0")
    assert "(elsewhere, 1 messages) The capital is Paris." in tab.text("#chat1")
    assert "weights fingerprint-" in tab.text("#facts0") and "float32" in tab.text("#facts0")
    assert tab.js("document.querySelector('#chat0 strong').innerText") == "Paris"
    assert (server.seen[0]["logprobs"], server.seen[0]["top_logprobs"], server.seen[0]["max_tokens"]) == (True, 5, 512)
    assert tab.js(f"document.querySelector({json.dumps(QUESTION)}).value") == ""


def test_tokens_are_coloured_and_show_their_alternatives(tab):
    tab.shows("#panel0", "mean probability")
    classes = tab.js("[...document.querySelectorAll('#panel0 .t')].map(e => e.className)")
    assert classes == ["t p2", "t p0", "t p2", "t p0", "t p3", "t p1", "t p6"]
    likely, unlikely = (
        tab.js(f"getComputedStyle(document.querySelectorAll('#panel0 .t')[{at}]).backgroundColor") for at in (1, 6)
    )
    assert likely != unlikely
    card = "document.querySelectorAll('#panel0 .t .card')[4]"
    assert tab.js(f"getComputedStyle({card}).display") == "none"
    tab.hover("#panel0 .t", 4)
    tab.until(f"getComputedStyle({card}).display == 'block'")
    shown = tab.js(f"{card}.innerText")
    assert "34 %" in shown and "␣Lyon" in shown and "40 %" in shown and "<b>Nice</b>" in shown
    tab.hover(QUESTION)
    tab.until(f"getComputedStyle({card}).display == 'none'")
    tab.click("#panel0 .t", 4)
    tab.hover(QUESTION)
    assert tab.js(f"getComputedStyle({card}).display") == "block"


def test_what_is_saved_is_the_conversation(tab):
    tab.until("document.querySelectorAll('#saved a').length == 2")
    links = tab.js("[...document.querySelectorAll('#saved a')].map(e => [e.download, e.href])")
    record = json.loads(base64.b64decode(links[0][1].partition("base64,")[2]))
    assert links[0][0] == "conversation.json"
    assert record["turns"][0]["question"] == "What is the capital of France?"
    assert [each["served"] for each in record["turns"][0]["answers"]] == ["fingerprint-of-tiny", "fingerprint-of-elsewhere"]
    assert links[1][0] == "conversation.md"


def test_controls_reach_the_endpoint(tab, server):
    choose(tab, "#right", NOBODY)
    tab.until("!document.querySelector('#chat1')?.offsetWidth")
    tab.fill("#system textarea", "be brief")
    way(tab, "Sample")
    tab.fill("#temperature input[type=number]", "0.3")
    tab.press("Tab")
    tab.fill("#top_k input[type=number]", "7")
    tab.press("Tab")
    tab.fill("#seed input, #seed textarea", "11")
    tab.fill("#most input[type=number]", "33")
    tab.press("Tab")
    tab.click("#probabilities input")
    ask(tab, "sampled")
    tab.shows("#chat0", "(tiny, 4 messages)")
    asked = server.seen[-1]
    assert {name: asked.get(name) for name in ("temperature", "top_k", "top_p", "seed", "max_tokens", "logprobs")} == {
        "temperature": 0.3, "top_k": 7, "top_p": 1, "seed": 11, "max_tokens": 33, "logprobs": None,
    }  # fmt: skip
    assert asked["messages"][0] == {"role": "system", "content": "be brief"}
    way(tab, "Greedy")
    ask(tab, "greedy")
    tab.shows("#chat0", "(tiny, 6 messages)")
    assert (server.seen[-1]["temperature"], server.seen[-1].get("top_k"), server.seen[-1].get("seed")) == (0.0, None, None)


def test_beams_are_shown_with_their_rivals(tab, server):
    tab.click("#probabilities input")
    way(tab, "Beam search")
    ask(tab, "beams")
    tab.shows("#chat0", "the best beam")
    tab.shows("#panel0", "3 further beams")
    assert "the second <i>beam</i> log-probability -0.69" in tab.text("#panel0")
    assert (server.seen[-1]["use_beam_search"], server.seen[-1]["n"]) == (True, 4)
    way(tab, "Model's own")


def test_stop_ends_the_answer_and_the_endpoint_hears_it(tab, server):
    server.left.clear()
    ask(tab, "slow")
    tab.shows("#facts0", "answering")
    tab.until("(document.querySelector('#chat0').innerText.match(/Paris/g) ?? []).length >= 6")
    tab.click("#stop")
    tab.shows("#facts0", "stopped")
    assert server.left.wait(10)
    settled(tab)
    ask(tab, "after it")
    tab.shows("#chat0", "after it")
    tab.shows("#facts0", "tokens/s")


def test_a_failure_is_said_and_retry_asks_again(tab, server):
    ask(tab, "refuse")
    tab.shows("#facts0", "The endpoint refused (400): the prompt is too long")
    settled(tab)
    count = len(server.seen)
    tab.click("#retry")
    deadline = time.monotonic() + 20
    while len(server.seen) == count and time.monotonic() < deadline:
        time.sleep(0.05)
    assert server.seen[-1]["messages"] == server.seen[-2]["messages"]


def test_an_endpoint_that_is_gone_is_said_without_its_address(tab, other):
    settled(tab)
    other.shutdown()
    other.server_close()
    choose(tab, "#left", "elsewhere")
    ask(tab, "are you there")
    tab.shows("#facts0", "Trying again in")
    tab.shows("#facts0", "Nothing answers at the second endpoint; is the endpoint running?")
    settled(tab)
    choose(tab, "#left", "tiny")


def test_a_click_on_an_answer_shows_its_tokens(tab):
    ask(tab, "long")
    tab.shows("#panel0", "31 tokens")
    settled(tab)
    tab.click("#chat0 .bot.message, #chat0 .message.bot, #chat0 [data-testid=bot]", 0)
    tab.shows("#panel0", "7 tokens")


def test_nothing_is_asked_of_anybody_else(tab, page, server, other):
    """Neither by the page nor for an image in an answer, which could carry away what was said."""
    with scripted("trap") as trap:
        server.trap = trap.url.removesuffix("/v1")
        ask(tab, "image")
        tab.shows("#chat0", "look:")
        tab.until("document.querySelectorAll('#chat0 img').length > 0")
        time.sleep(0.3)
        assert set(tab.foreign(page)) <= {f"{server.trap}/pixel.png", f"{server.trap}/tag.png"}
        assert trap.hits == 0
    assert tab.said and all("Content Security Policy" in line for line in tab.said)
    text = tab.js("document.documentElement.outerHTML")
    assert KEY not in text and str(server.server_port) not in re.sub(re.escape(server.trap), "", text)
    assert str(other.server_port) not in text


def test_a_new_conversation_forgets(tab, server):
    settled(tab)
    tab.click("#fresh")
    tab.shows("#chat0", "Ask something below.")
    ask(tab, "again")
    tab.shows("#chat0", "(tiny, 2 messages)")


def test_a_closed_tab_ends_its_answer(tab, server):
    server.left.clear()
    ask(tab, "slow")
    tab.shows("#facts0", "answering")
    tab.goto("about:blank")
    assert server.left.wait(20)
