"""The Streamlit page in a real browser, against a scripted endpoint."""

from __future__ import annotations

from raylm.serve.demo.look import WAYS
from tests.browser import browser
from tests.serve.demo.pages import needs, started
from tests.serve.demo.scripted import KEY, scripted

pytestmark = needs("streamlit")
QUESTION = "[data-testid=stChatInput] textarea"


def settled(tab, text):
    """The answer has ended, and the page was drawn anew with it."""
    tab.shows("body", text)
    tab.until("!document.querySelector('.st-key-stop')")


def ask(tab, text):
    tab.click(QUESTION)
    tab.type(text)
    tab.press("Enter")


def test_the_same_chat_on_streamlit():
    with scripted("tiny", pause_s=0.02) as server, started(server.url, "--streamlit", key=KEY) as page, browser() as tab:
        tab.resize(1400, 900)
        tab.goto(page)
        tab.until(f"!!document.querySelector('{QUESTION}')")
        ask(tab, "What is the capital of France?")
        settled(tab, "tokens/s")
        assert "(tiny, 1 messages) The capital is Paris." in tab.text("body")
        assert "weights fingerprint-" in tab.text(".facts")
        tab.hover(".probs .t", 4)
        tab.until("getComputedStyle(document.querySelectorAll('.probs .t .card')[4]).display == 'block'")
        assert "␣Lyon" in tab.js("document.querySelectorAll('.probs .t .card')[4].innerText")
        tab.click("[data-testid=stSidebar] [role=radiogroup] label", WAYS.index("Beam search"))
        tab.shows("[data-testid=stSidebar]", "Beams")
        ask(tab, "beams")
        settled(tab, "3 further beams")
        assert server.seen[-1]["use_beam_search"] is True
        tab.click("[data-testid=stSidebar] [role=radiogroup] label", WAYS.index("Greedy"))
        tab.until("!document.querySelector('[data-testid=stSidebar]').innerText.includes('Beams')")
        ask(tab, "slow")
        tab.shows("body", "answering")
        assert server.seen[-1]["temperature"] == 0.0
        tab.click(".st-key-stop button")
        settled(tab, "stopped")
        assert server.left.wait(10)
        with scripted("trap") as trap:
            server.trap = trap.url.removesuffix("/v1")
            ask(tab, "image")
            tab.shows("body", "look:")
            tab.shows("body", "first word after")
            assert trap.hits == 0
        assert set(tab.foreign(page)) <= {f"{server.trap}/pixel.png"}
        assert KEY not in tab.js("document.documentElement.outerHTML")
