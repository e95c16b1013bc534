"""A conversation with one model, or with two side by side: what was asked, what each answered, and what goes out next."""

from __future__ import annotations

import asyncio
import contextlib
import queue
import threading
from collections.abc import AsyncIterator, Callable, Generator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass, field
from typing import Any, NamedTuple

from .answers import Answer, Place, ask
from .sampling import Sampling

PACE_S = 0.05
"""Least seconds between two looks at answers that grow: no eye reads faster, and a browser draws each."""
STOP_S = 5.0


class Choice(NamedTuple):
    """A model at an endpoint."""

    place: Place
    model: str


@dataclass
class Turn:
    """A question and, for each side, its answer."""

    question: str
    answers: list[Answer] = field(default_factory=list)


@dataclass
class Conversation:
    """Turns under one system prompt. Each side hears its own earlier answers, whole ones and those that the user stopped; a turn
    whose answer failed is not told to it again."""

    system: str = ""
    turns: list[Turn] = field(default_factory=list)

    def messages(self, side: int = 0) -> list[dict[str, str]]:
        """What a side is asked next: the last turn's question, behind all that it knows of."""
        said = [{"role": "system", "content": self.system}] if self.system else []
        for turn in self.turns[:-1]:
            answer = turn.answers[side] if side < len(turn.answers) else None
            if answer is not None and answer.text and answer.state in ("done", "stopped"):
                said += [{"role": "user", "content": turn.question}, {"role": "assistant", "content": answer.text}]
        return [*said, {"role": "user", "content": self.turns[-1].question}] if self.turns else said

    def ask(self, question: str, choices: Sequence[Choice], sampling: Sampling) -> Running:
        """A new turn, asked of each model at the same time."""
        turn = Turn(question, [Answer(choice.model, sampling) for choice in choices])
        self.turns.append(turn)
        asked = [
            (lambda choice=choice, messages=self.messages(side): ask(choice.place, choice.model, messages, sampling))
            for side, choice in enumerate(choices)
        ]
        return Running(turn.answers, asked)

    def take_back(self) -> str:
        """Forgets the last turn; returns its question, "" where there is none."""
        return self.turns.pop().question if self.turns else ""

    def export(self) -> dict[str, Any]:
        """Everything, with settings, fingerprints and probabilities, for a JSON file. Holds no key and no address."""
        turns = [{"question": turn.question, "answers": [_exported(answer) for answer in turn.answers]} for turn in self.turns]
        return {"system": self.system, "turns": turns}

    def markdown(self) -> str:
        """To read."""
        parts = [f"> {line}" for line in self.system.splitlines()] + ([""] if self.system else [])
        for turn in self.turns:
            parts += ["**You**", "", turn.question, ""]
            for answer in turn.answers:
                ended = "" if answer.state == "done" else f" ({answer.state})"
                weights = f", weights {answer.served}" if answer.served else ""
                parts += [f"**{answer.model}**{weights}{ended}", "", answer.text or answer.why, ""]
        return "\n".join(parts)


class Running:
    """Answers under way to one question; iterate over it while they grow, and `stop` it from any thread."""

    def __init__(self, answers: list[Answer], asked: Sequence[Callable[[], AsyncIterator[Answer]]]) -> None:
        self.answers, self._asked = answers, asked
        self._loop: asyncio.AbstractEventLoop | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._stopped, self._over = threading.Event(), threading.Event()

    async def __aiter__(self) -> AsyncIterator[list[Answer]]:
        changed = asyncio.Event()
        self._loop = asyncio.get_running_loop()
        self._tasks = [asyncio.create_task(self._follow(side, changed)) for side in range(len(self._asked))]
        if self._stopped.is_set():
            self._cancel()
        try:
            while not all(task.done() for task in self._tasks):
                await changed.wait()
                changed.clear()
                yield self.answers
                await asyncio.sleep(PACE_S)
            # what a task did not expect is an error of ours
            for task in self._tasks:
                task.result()
            yield self.answers
        finally:
            self._cancel()
            await asyncio.wait(self._tasks, timeout=STOP_S)
            self._over.set()

    def stop(self, wait_s: float = 0.0) -> None:
        """End all answers; what came of them stays. A thread that is not the one they come in may wait for it."""
        self._stopped.set()
        if self._loop is not None:
            with contextlib.suppress(RuntimeError):  # the loop has ended, and all in it
                self._loop.call_soon_threadsafe(self._cancel)
            self._over.wait(wait_s)

    def in_thread(self) -> Generator[list[Answer]]:
        """The same for a caller without an event loop. Leaving it, by Ctrl-C too, stops the answers."""
        grown: queue.SimpleQueue[list[Answer] | None] = queue.SimpleQueue()

        async def follow() -> None:
            try:
                async for answers in self:
                    grown.put(answers)
            finally:
                grown.put(None)

        with ThreadPoolExecutor(1) as thread:
            followed = thread.submit(asyncio.run, follow())
            try:
                while (answers := grown.get()) is not None:
                    yield answers
            finally:
                self.stop()
            followed.result()

    async def _follow(self, side: int, changed: asyncio.Event) -> None:
        try:
            async with contextlib.aclosing(self._asked[side]()) as grown:  # type: ignore[type-var]
                async for answer in grown:
                    self.answers[side] = answer
                    changed.set()
        except asyncio.CancelledError:
            if not self.answers[side].ended:
                self.answers[side].state = "stopped"
        finally:
            changed.set()

    def _cancel(self) -> None:
        for task in self._tasks:
            task.cancel()


def _exported(answer: Answer) -> dict[str, Any]:
    kept = asdict(answer)
    kept["sampling"] = answer.sampling.chosen()
    return {name: value for name, value in kept.items() if value not in ("", [], 0, 0.0, None)}
