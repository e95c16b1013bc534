"""The Gradio page: a chat with one model or two side by side, its sampling, and the probabilities of its tokens."""

from __future__ import annotations

import os
import time
from collections.abc import AsyncIterator
from typing import Any

# before Gradio is imported: it sends statistics of use otherwise
os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

import gradio as gr
from starlette.middleware import Middleware

from .answers import Answer
from .conversation import Conversation, Running
from .guard import Guard
from .look import BEAM, CSS, GREEDY, NOBODY, OWN, PANEL_S, SAMPLE, WAYS, facts_html, saved_html, top_html
from .places import TITLE, Served, listens, places, served, tie
from .sampling import MOST_BEAMS, MOST_LOGPROBS, Sampling
from .spans import STYLE, tokens_html

AT_ONCE = 32
"""Conversations that may be answered at the same time."""
# on a telephone the settings would cover the chat
NARROW = "() => { if (innerWidth < 768) document.querySelector('.sidebar .toggle-button')?.click() }"
EARLY = "The page is still asking which models there are."


class Session:
    """Of one open page."""

    def __init__(self, served: Served) -> None:
        self.served = served
        self.conversation = Conversation()
        self.running: Running | None = None
        self.shown: list[int] = [-1, -1]
        """The turn whose token probabilities each side shows."""

    def stop(self) -> None:
        if self.running is not None:
            self.running.stop()

    def answer(self, side: int, turn: int | None = None) -> Answer | None:
        """Of a turn; default: the one whose probabilities are shown."""
        turns, at = self.conversation.turns, self.shown[side] if turn is None else turn
        if not turns or not -len(turns) <= at < len(turns):
            return None
        answers = turns[at].answers
        return answers[side] if side < len(answers) else None

    def messages(self, side: int) -> list[dict[str, Any]]:
        """What the side's chat shows."""
        shown: list[dict[str, Any]] = []
        for turn in self.conversation.turns:
            if side < len(turn.answers):
                answer = turn.answers[side]
                shown.append({"role": "user", "content": turn.question})
                if answer.reasoning:
                    shown.append({"role": "assistant", "content": answer.reasoning, "metadata": {"title": "Reasoning"}})
                shown.append({"role": "assistant", "content": answer.text or ("…" if not answer.ended else answer.why or "—")})
        return shown

    def turn_of(self, side: int, message: int) -> int:
        """The turn that a message of `messages` belongs to."""
        at = -1
        for turn, said in enumerate(self.conversation.turns):
            if side < len(said.answers):
                at += 3 if said.answers[side].reasoning else 2
                if message <= at:
                    return turn
        return -1


def page(title: str) -> gr.Blocks:
    """The page; its endpoints are those of the environment."""
    found = places()
    with gr.Blocks(title=title, fill_height=True, fill_width=True, analytics_enabled=False) as blocks:
        session = gr.State(None, delete_callback=lambda gone: gone.stop() if gone else None)
        with gr.Sidebar(width=330):
            top = gr.HTML(top_html(title))
            left = gr.Dropdown([], label="Model", elem_id="left")
            right = gr.Dropdown([NOBODY], value=NOBODY, label="Beside it", elem_id="right")
            system = gr.Textbox(label="System prompt", lines=2, placeholder="none", elem_id="system")
            controls = _controls()
            saved = gr.HTML(saved_html(Conversation()), elem_id="saved")
            fresh = gr.Button("New conversation", size="sm", elem_id="fresh")
        with gr.Row(equal_height=True, scale=1):
            sides = [_side(at) for at in range(2)]
        with gr.Row(equal_height=True, elem_classes="ask"):
            question = gr.Textbox(
                show_label=False, placeholder="Ask something", lines=1, max_lines=8, scale=8, autofocus=True, elem_id="question"
            )
            send = gr.Button("Send", variant="primary", scale=1, min_width=90, elem_id="send")
            stop = gr.Button("Stop", variant="stop", scale=1, min_width=90, visible=False, elem_id="stop")
            retry = gr.Button("Retry", scale=1, min_width=90, elem_id="retry")
        columns, chats, facts, panels = map(list, zip(*sides, strict=True))
        outputs = [question, send, stop, *chats, *facts, *panels, saved]
        inputs = [session, left, right, system, *controls]
        answering = {"concurrency_limit": AT_ONCE, "show_progress": "hidden", "api_visibility": "private"}
        gr.on([question.submit, send.click], _send, [question, *inputs], outputs, **answering)
        retry.click(_retry, inputs, outputs, **answering)
        quick = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
        stop.click(lambda session: session and session.stop(), [session], None, **quick)
        fresh.click(_fresh, [session], outputs, **quick)
        for chat in chats:
            chat.clear(_fresh, [session], outputs, **quick)
        right.change(lambda name: gr.update(visible=name != NOBODY), [right], [columns[1]], **quick)
        for side in range(2):
            chats[side].select(_Selected(side), [session], [panels[side], facts[side]], **quick)

        async def arrive() -> tuple[Any, ...]:
            now = await served(found)
            names = list(now.choices)
            beside = gr.update(choices=[NOBODY, *names], value=now.second or NOBODY)
            return Session(now), top_html(title, now.failed), gr.update(choices=names, value=names[0] if names else None), beside

        blocks.load(None, js=NARROW)
        blocks.load(arrive, None, [session, top, left, right], show_progress="hidden", api_visibility="private")
    return blocks


def _controls() -> list[Any]:
    """Of the sampling, in the order of `_sampling`'s arguments."""
    way = gr.Radio(list(WAYS), value=OWN, label="How the next token is chosen", elem_id="way")
    with gr.Group(visible=False) as drawn:
        temperature = gr.Slider(0.05, 2, 1.0, step=0.05, label="Temperature", elem_id="temperature")
        top_k = gr.Slider(0, 200, 0, step=1, label="Top-k", info="0: all tokens", elem_id="top_k")
        top_p = gr.Slider(0.05, 1, 1.0, step=0.05, label="Top-p", elem_id="top_p")
        seed = gr.Textbox(label="Seed", placeholder="another each time", elem_id="seed")
    with gr.Group(visible=False) as beams:
        note = "the answer comes as a whole; vLLM ends a beam at the tokenizer's end-of-text token alone"
        width = gr.Slider(2, MOST_BEAMS, 4, step=1, label="Beams", info=note, elem_id="beams")
    most = gr.Slider(1, 4096, 512, step=1, label="Most tokens", elem_id="most")
    with gr.Group():
        probabilities = gr.Checkbox(True, label="Token probabilities", elem_id="probabilities")
        top = gr.Slider(1, MOST_LOGPROBS, 5, step=1, label="Alternatives of each token", elem_id="alternatives")
    quick: dict[str, Any] = {"queue": False, "show_progress": "hidden", "api_visibility": "private"}
    way.change(lambda now: (gr.update(visible=now == SAMPLE), gr.update(visible=now == BEAM)), [way], [drawn, beams], **quick)
    probabilities.change(lambda on: gr.update(visible=on), [probabilities], [top], **quick)
    return [way, temperature, top_k, top_p, seed, width, most, probabilities, top]


def _sampling(
    way: str, temperature: float, top_k: int, top_p: float, seed: str, width: int, most: int, shows: bool, top: int
) -> Sampling:
    drawn: dict[str, Any] = {}
    if way == SAMPLE:
        if seed.strip() and not seed.strip().isdigit():
            raise gr.Error(f"A seed is a whole number, not {seed!r}.")
        drawn = {"temperature": temperature, "top_k": int(top_k), "top_p": top_p, "seed": int(seed) if seed.strip() else None}
    elif way == GREEDY:
        drawn = {"temperature": 0.0}
    elif way == BEAM:
        drawn = {"beam_width": int(width)}
    return Sampling(**drawn, max_tokens=int(most), top_logprobs=int(top) if shows else None)


def _side(at: int) -> tuple[Any, ...]:
    with gr.Column(visible=at == 0, min_width=280) as column:
        chat = gr.Chatbot(
            show_label=False, layout="bubble", min_height=240, height="calc(100vh - 33rem)", buttons=["copy"],
            feedback_options=None, placeholder="Ask something below.", latex_delimiters=[], elem_id=f"chat{at}",
        )  # fmt: skip
        facts = gr.HTML(facts_html(None), elem_id=f"facts{at}")
        with gr.Accordion("Token probabilities", open=True, elem_classes="tokens"):
            panel = gr.HTML(tokens_html(None), elem_id=f"panel{at}")
    return column, chat, facts, panel


async def _send(
    question: str, session: Session | None, left: str, right: str, system: str, *controls: Any
) -> AsyncIterator[list[Any]]:
    if session is None:
        raise gr.Error(EARLY)
    names = [name for name in (left, right if right != NOBODY else None) if name in session.served.choices]
    if not question.strip():
        return
    if not names:
        raise gr.Error(session.served.failed or "The endpoint lists no model; reload the page when it does.")
    if session.running is not None:
        session.stop()
    session.conversation.system = system.strip()
    choices = [session.served.choices[name] for name in names]
    session.running = session.conversation.ask(question.strip(), choices, _sampling(*controls))
    session.shown = [len(session.conversation.turns) - 1] * 2
    drawn = time.monotonic()
    yield [gr.update(value=""), gr.update(visible=False), gr.update(visible=True), *_outputs(session, going=True)[3:]]
    try:
        async for _ in session.running:
            now = time.monotonic()
            draws = now - drawn > PANEL_S
            drawn = now if draws else drawn
            yield _outputs(session, going=True, panels=draws)
    finally:
        session.stop()
    yield _outputs(session)


async def _retry(session: Session | None, *controls: Any) -> AsyncIterator[list[Any]]:
    if session is None:
        return
    session.stop()
    if question := session.conversation.take_back():
        async for shown in _send(question, session, *controls):
            yield shown


def _fresh(session: Session | None) -> list[Any]:
    if session is None:
        raise gr.Error(EARLY)
    session.stop()
    session.conversation = Conversation()
    return _outputs(session)


def _outputs(session: Session, going: bool = False, panels: bool = True) -> list[Any]:
    """What every event of an answer shows anew."""
    return [
        gr.skip(),
        # a button that is drawn anew between press and release hears no click
        *((gr.skip(), gr.skip()) if going else (gr.update(visible=True), gr.update(visible=False))),
        *(session.messages(side) for side in range(2)),
        *(facts_html(session.answer(side)) for side in range(2)),
        *(tokens_html(session.answer(side)) if panels else gr.skip() for side in range(2)),
        saved_html(session.conversation) if not going else gr.skip(),
    ]


class _Selected:
    """A click on a message shows the probabilities of its answer."""

    def __init__(self, side: int) -> None:
        self._side = side

    def __call__(self, session: Session, event: gr.SelectData) -> tuple[str, str]:
        at = event.index if isinstance(event.index, int) else event.index[0]
        session.shown[self._side] = session.turn_of(self._side, at)
        answer = session.answer(self._side)
        return tokens_html(answer), facts_html(answer)


def main() -> None:
    """Serve the page until Ctrl-C."""
    tie()
    host, port = listens()
    theme = gr.themes.Base(
        primary_hue="blue", neutral_hue="slate", font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]
    )
    page(os.environ.get(TITLE) or "raylm demo").queue().launch(
        server_name=host, server_port=port, share=False, quiet=True, footer_links=[], run_history=False, ssr_mode=False,
        enable_monitoring=False, theme=theme, css=CSS, head=STYLE, app_kwargs={"middleware": [Middleware(Guard, host=host)]},
    )  # fmt: skip
