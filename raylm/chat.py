"""`raylm chat`: a conversation with an endpoint in the terminal; needs neither torch nor ray."""

from __future__ import annotations

import asyncio
import contextlib
import difflib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import TextIO

from raylm.chat_lines import BLOCK, QUIT, Lines, harmless
from raylm.serve.demo.answers import Answer, Place, models, reason
from raylm.serve.demo.conversation import Choice, Conversation
from raylm.serve.demo.sampling import RANGES, Sampling

_COMMAND = re.compile(r"/([a-z]+)(?:\s+(.*))?", re.DOTALL)


def chat(
    url: str,
    key: str | None = None,
    model: str | None = None,
    *,
    max_tokens: int | None = None,
    temperature: float | None = None,
    system: str = "",
    lines: TextIO | None = None,
    say: Callable[[str], None] | None = None,
    history: Path | None = None,
) -> int:
    """Talk to an OpenAI-compatible endpoint. Answers stream as they come, and the conversation is kept.

    Args:
        url: base URL, with /v1.
        model: name to ask for; default: the first that the endpoint lists.
        max_tokens: longest answer; default: what the model's context has room for.
        system: what the model is told before the first question.
        lines: where questions come from; default stdin. What is no terminal is answered line by line, without prompts.
        say: writes a piece of text; default stdout. What the endpoint sends reaches it as `harmless` text.
        history: file that keeps what is typed in a terminal; None keeps nothing.

    Returns:
        0, or 1 when the endpoint refused, broke off or could not be reached.
    """
    from openai import OpenAIError

    write = say or _write
    place = Place(url, key)

    def show(text: str) -> None:
        write(harmless(text))

    try:
        model = model or asyncio.run(models(place))[0]
    except (OpenAIError, IndexError) as refusal:
        show(f"{reason(refusal, url)}\n")
        return 1
    read = Lines(lines or sys.stdin, show, history)
    talk = Talk(Choice(place, model), Sampling(max_tokens=max_tokens, temperature=temperature), system, show, read.live)
    if read.live:
        show(f"{model} at {url}. /help lists commands, Ctrl-C ends an answer, Ctrl-D leaves.\n")
    for question in read:
        talk.hear(question)
    show(f"next: raylm chat {url} goes on while the endpoint runs\n" if read.live else "")
    return int(talk.failed)


class Talk:
    """A conversation and its settings; `hear` takes a question or a command.

    Args:
        live: somebody looks on: figures and hints are shown too.
    """

    def __init__(self, choice: Choice, sampling: Sampling, system: str, show: Callable[[str], None], live: bool) -> None:
        self._choice, self._sampling, self._show, self._live = choice, sampling, show, live
        self._conversation, self._last = Conversation(system=system), ""
        self.failed = False
        self._commands: dict[str, tuple[Callable[[str], None], str]] = {
            "help": (self._help, "this list"),
            "system": (self._system, "TEXT: what the model is told before the first question; `-` takes it back"),
            "set": (self._set, f"NAME=VALUE ...: {', '.join(RANGES)}; `default` leaves it to the endpoint"),
            "model": (self._model, "NAME: another model of this endpoint; without a name they are listed"),
            "retry": (self._retry, "asks the last question again"),
            "reset": (self._reset, "forgets the conversation; so does /new"),
            "new": (self._reset, ""),
            "save": (self._save, "FILE: the conversation as .md, or as .json with settings and fingerprints"),
        }

    def hear(self, text: str) -> None:
        """One question, or one command."""
        command = _COMMAND.fullmatch(text)
        if command is None:
            self._ask(text)
        elif command[1] in self._commands:
            self._commands[command[1]][0]((command[2] or "").strip())
        else:
            near = difflib.get_close_matches(command[1], [*self._commands, *(name[1:] for name in QUIT)], 1)
            self._refuse(f"no command /{command[1]}" + (f"; did you mean /{near[0]}?" if near else "; /help lists them"))

    def _ask(self, question: str) -> None:
        self._last = question
        running = self._conversation.ask(question, [self._choice], self._sampling)
        shown = _Shown(self._show, self._live)
        try:
            with contextlib.closing(running.in_thread()) as growing:
                for answers in growing:
                    shown.grow(answers[0])
        except KeyboardInterrupt:
            running.stop()
        answer = self._conversation.turns[-1].answers[0]
        if answer.state == "done":
            # its last words may have come with its end
            shown.grow(answer)
            self._show(f"\n{_figures(answer)}" if self._live else "\n")
            return
        # the question is dropped with its half answer: the next one should not build on it
        self._conversation.take_back()
        again = "/retry asks it again" if self._live else "the question is not kept"
        self.failed = self.failed or answer.failed
        if not answer.failed:
            self._show("\n(stopped)\n")
        elif answer.state == "broken":
            self._show(f"\n({answer.why.rstrip('.')}; {again})\n")
        else:
            self._show(f"{answer.why}\n")

    def _help(self, _: str) -> None:
        lines = [f"  /{name:<8}{said}" for name, (_, said) in self._commands.items() if said]
        lines += [f"  {QUIT[0]:<9}ends the chat, as Ctrl-D does; Ctrl-C ends an answer alone"]
        lines += [f"  {BLOCK}      opens a question of several lines and closes it; a backslash at a line's end adds one line"]
        self._show("\n".join(lines) + "\n")

    def _system(self, text: str) -> None:
        if text:
            self._conversation.system = "" if text == "-" else text
        self._show(f"system prompt: {self._conversation.system or 'none'}\n")

    def _set(self, text: str) -> None:
        asked = self._sampling
        for pair in text.split():
            name, given, value = pair.partition("=")
            try:
                asked = asked.setting(name, value if given else "")
            except ValueError as cause:
                self._refuse(str(cause))
                return
        self._sampling = asked
        chosen = ", ".join(f"{name}={value}" for name, value in asked.chosen().items())
        self._show(f"set: {chosen or 'nothing; the endpoint chooses'}\n")

    def _model(self, name: str) -> None:
        from openai import OpenAIError

        try:
            listed = asyncio.run(models(self._choice.place))
        except OpenAIError as cause:
            self._refuse(reason(cause, self._choice.place.url))
            return
        if name and name not in listed:
            self._refuse(f"the endpoint lists no model {name!r}; it has {', '.join(listed)}")
            return
        self._choice = self._choice._replace(model=name or self._choice.model)
        self._show("".join(f"{'*' if each == self._choice.model else ' '} {each}\n" for each in listed))

    def _retry(self, _: str) -> None:
        if not self._last:
            self._refuse("nothing was asked yet")
            return
        if self._conversation.turns and self._conversation.turns[-1].question == self._last:
            self._conversation.take_back()
        self._ask(self._last)

    def _reset(self, _: str) -> None:
        self._conversation.turns.clear()

    def _save(self, name: str) -> None:
        file = Path(name).expanduser()
        if not name or file.suffix not in (".json", ".md"):
            self._refuse("say where: /save talk.md, or /save talk.json")
            return
        said = self._conversation
        text = said.markdown() if file.suffix == ".md" else json.dumps(said.export(), ensure_ascii=False, indent=1) + "\n"
        try:
            at = os.open(file, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        except OSError as cause:
            self._refuse(f"{file} cannot be made: {cause.strerror}")
            return
        with os.fdopen(at, "w", encoding="utf-8", errors="backslashreplace") as opened:
            opened.write(text)
        self._show(f"saved {len(said.turns)} questions in {file}\n")

    def _refuse(self, why: str) -> None:
        self.failed = self.failed or not self._live
        self._show(f"{why}\n")


class _Shown:
    """How much of an answer has been written."""

    def __init__(self, show: Callable[[str], None], live: bool) -> None:
        self._show, self._live = show, live
        self._thought = self._said = 0
        self._why = ""

    def grow(self, answer: Answer) -> None:
        """Write what is new."""
        if answer.state == "retrying" and answer.why != self._why:
            self._why = answer.why
            self._show(f"({answer.why})\n")
        # read once: it grows in another thread
        thought, text = answer.reasoning, answer.text
        if self._live and len(thought) > self._thought:
            self._show(("" if self._thought else "(thinks) ") + thought[self._thought :])
            self._thought = len(thought)
        if len(text) > self._said:
            self._show(("\n\n" if self._thought and not self._said else "") + text[self._said :])
            self._said = len(text)


def _figures(answer: Answer) -> str:
    """The last line of an answer: how much, how fast."""
    parts = [f"{answer.num_tokens} tokens"] if answer.num_tokens else []
    parts += [f"{answer.tokens_s:.1f} tokens/s"] if answer.tokens_s else []
    parts += [f"first word after {answer.first_s:.2f} s"] if answer.first_s and answer.sampling.streams else []
    parts += ["cut at max_tokens"] if answer.finish == "length" else []
    return f"({', '.join(parts or [f'{answer.seconds:.1f} s'])})\n"


def _write(text: str) -> None:
    encoding = sys.stdout.encoding or "utf-8"
    sys.stdout.write(text.encode(encoding, "backslashreplace").decode(encoding))
    sys.stdout.flush()
