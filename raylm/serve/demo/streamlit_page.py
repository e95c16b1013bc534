"""The Streamlit page: the same chat, sampling and token probabilities as the Gradio page, on Streamlit's own server."""

from __future__ import annotations

import asyncio
import contextlib
import os
import re
import time
from pathlib import Path
from typing import Any

import streamlit as st

from .answers import Answer
from .conversation import STOP_S, Choice, Conversation, Running
from .guard import Guard
from .look import BEAM, FACTS, GREEDY, NOBODY, PANEL_S, SAMPLE, WAYS, facts_html, files
from .places import TITLE, Served, listens, places, served, tie
from .sampling import MOST_BEAMS, MOST_LOGPROBS, Sampling
from .spans import STYLE, tokens_html

_DIRECTIVE = re.compile(r"(?<!\w):(?=[a-z_-]+[\[/:])")
_STYLE = STYLE + f"<style>{FACTS}.probs,.facts,.saved{{--ground:var(--st-background-color,#fff)}}"
# Streamlit's own sign of a running page has a Stop that leaves the page as it was drawn last
_STYLE += "[data-testid=stStatusWidget]{display:none}"
# where it stays while the answer grows
_STYLE += ".st-key-stop{position:fixed;right:2rem;bottom:7rem;width:auto;z-index:100}</style>"


def main(script: Path) -> None:
    """Serve `script`, which calls `show`, until Ctrl-C."""
    from starlette.middleware import Middleware

    tie()
    host, port = listens()
    app = st.App(script, middleware=[Middleware(Guard, host=host)])
    app.run(
        config={
            "server.address": host, "server.port": port, "server.headless": True,
            "server.fileWatcherType": "none", "server.enableStaticServing": False, "browser.gatherUsageStats": False,
            "client.toolbarMode": "viewer", "client.showErrorDetails": "none", 
            "theme.primaryColor": "#3c6fb4",
        }
    )  # fmt: skip


def show() -> None:
    """The page, which Streamlit runs from top to bottom at each click."""
    title = os.environ.get(TITLE) or "raylm demo"
    st.set_page_config(page_title=title, layout="wide")
    st.html(_STYLE)
    state = st.session_state
    if "running" in state:
        # whatever was clicked leaves the loop that draws an answer
        state.running.stop(STOP_S)
    if "conversation" not in state:
        state.conversation, state.served = Conversation(), asyncio.run(served(places()))
    found: Served = state.served
    conversation: Conversation = state.conversation
    with st.sidebar:
        st.html(f'<div class="top"><b>{title}</b><span>served by raylm</span></div>')
        if found.failed:
            st.error(found.failed)
        choices, sampling = _controls(found, conversation)
        spot = st.container(horizontal=True)
        if st.button("New conversation", use_container_width=True):
            state.conversation = conversation = Conversation()
    question = st.chat_input("Ask something")
    again = conversation.turns and st.sidebar.button("Retry", use_container_width=True)
    if again:
        question = conversation.take_back()
    columns = st.columns(len(choices)) if choices else []
    for side, column in enumerate(columns):
        with column:
            _history(conversation, side)
    if question and choices:
        state.running = conversation.ask(question, choices, sampling)
        _answer(state.running, question, columns)
        # drawn anew, the answer stands with all others, and the question field is free
        st.rerun()
    for name, (kind, text) in files(conversation).items() if conversation.turns else ():
        spot.download_button(f"Save as {name.rpartition('.')[2].upper()}", text, name, kind, on_click="ignore")


def _controls(found: Served, conversation: Conversation) -> tuple[list[Choice], Sampling]:
    names = list(found.choices)
    left = st.selectbox("Model", names)
    beside = [NOBODY, *names]
    right = st.selectbox("Beside it", beside, index=beside.index(found.second) if found.second else 0)
    conversation.system = (st.text_area("System prompt", placeholder="none", height=70) or "").strip()
    way = st.radio("How the next token is chosen", WAYS, horizontal=True)
    drawn: dict[str, Any] = {"temperature": 0.0} if way == GREEDY else {}
    if way == SAMPLE:
        drawn = {
            "temperature": st.slider("Temperature", 0.05, 2.0, 1.0, 0.05),
            "top_k": st.slider("Top-k (0: all tokens)", 0, 200, 0),
            "top_p": st.slider("Top-p", 0.05, 1.0, 1.0, 0.05),
            "seed": st.number_input("Seed", min_value=0, value=None, step=1, placeholder="another each time"),
        }
    elif way == BEAM:
        drawn = {"beam_width": st.slider("Beams", 2, MOST_BEAMS, 4)}
        st.caption("The answer comes as a whole; vLLM ends a beam at the tokenizer's end-of-text token alone.")
    most = st.slider("Most tokens", 1, 4096, 512)
    shows = st.checkbox("Token probabilities", value=True)
    top = st.slider("Alternatives of each token", 1, MOST_LOGPROBS, 5) if shows else None
    chosen = [found.choices[name] for name in (left, right) if name in found.choices]
    return chosen, Sampling(**drawn, max_tokens=most, top_logprobs=top)


def _history(conversation: Conversation, side: int) -> None:
    last = len(conversation.turns) - 1
    for at, turn in enumerate(conversation.turns):
        if side < len(turn.answers):
            answer = turn.answers[side]
            with st.chat_message("user"):
                st.markdown(_safe(turn.question))
            with st.chat_message("assistant"):
                _said(answer)
                st.html(facts_html(answer))
                if answer.tokens or answer.beams:
                    with st.expander("Token probabilities", expanded=at == last):
                        st.html(tokens_html(answer))


def _answer(running: Running, question: str, columns: list[Any]) -> None:
    """Draw answers while they grow. A click on anything, `Stop` among it, runs the page anew, which stops them."""
    spots = []
    for column in columns:
        with column:
            with st.chat_message("user"):
                st.markdown(_safe(question))
            with st.chat_message("assistant"):
                spots.append((st.empty(), st.empty(), st.empty()))
    st.button("Stop", type="primary", key="stop")
    drawn = 0.0
    with contextlib.closing(running.in_thread()) as growing:
        for answers in growing:
            draws = time.monotonic() - drawn > PANEL_S
            drawn = time.monotonic() if draws else drawn
            for (said, facts, panel), answer in zip(spots, answers, strict=True):
                with said.container():
                    _said(answer)
                facts.html(facts_html(answer))
                if draws and answer.tokens:
                    panel.html(tokens_html(answer))


def _said(answer: Answer) -> None:
    if answer.reasoning:
        with st.expander("Reasoning"):
            st.markdown(_safe(answer.reasoning))
    st.markdown(_safe(answer.text or ("…" if not answer.ended else answer.why or "—")))


def _safe(text: str) -> str:
    """Markdown whose directives of Streamlit (`:red[...]`, `:material/...:`) stay text."""
    return _DIRECTIVE.sub(r"\:", text)
