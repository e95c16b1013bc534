"""The `judge` reward: a language model behind an OpenAI-compatible endpoint judges the answers."""

from __future__ import annotations

import json
import math
import os
import tempfile
from pathlib import Path
from typing import Any, ClassVar, Literal
from urllib.parse import urlsplit

from pydantic import Field

from raylm.core.config import digest_of
from raylm.core.errors import ConfigError
from raylm.inference.client import Client, Reply
from raylm.rl.rewards.verdicts import Verdicts
from raylm.rl.types import Prompt, Score, Trajectory, Unscored

LOCAL = ("127.0.0.1", "localhost", "::1")
MARGIN_S = 5.0
"""Seconds beyond the requests' own deadlines before a judge counts as hanging."""


class Judge(Verdicts):
    """A judge behind a chat completion API: vLLM, `raylm serve`, OpenAI. Time-outs, 429 and 5xx are tried again until
    `deadline_s`."""

    placement = frozenset({"key", "concurrency", "deadline_s", "cache"})
    waits: ClassVar[bool] = True

    kind: Literal["judge"] = "judge"
    url: str
    """Base URL, as `http://127.0.0.1:8000/v1`."""
    model: str
    """Name of the model there."""
    key: str = "OPENAI_API_KEY"
    """Environment variable of the reward worker that holds the key; an endpoint on this machine needs none."""
    concurrency: int = Field(default=16, ge=1)
    """Requests of one reward worker that are under way at the same time."""
    deadline_s: float = Field(default=120.0, gt=0, allow_inf_nan=False)
    """Seconds for one request, with everything tried again until then."""
    cache: str | None = None
    """Folder of the reward worker's machine in which replies are kept: what was asked before is not asked again."""
    most_answers: int = Field(default=16, ge=1)
    """Answers to one prompt that there may be, for the deadline of a comparison among them (pairwise)."""

    def check(self, where: str) -> None:
        """Raises ConfigError where the address is none, or the key that it needs is not in the environment."""
        parts = urlsplit(self.url)
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ConfigError(f"the judge's url {self.url!r} is no address", where=where, next="http://HOST:PORT/v1")
        if parts.hostname not in LOCAL and self.key and not os.environ.get(self.key):
            raise ConfigError(
                f"the judge's key is read from ${self.key}, which is not set",
                where=where,
                next=f'export {self.key}=..., or say `key = ""` where the endpoint needs none',
            )

    def runner(self) -> Asker | GroupAsker:
        """What asks, in the rewards' process."""
        return Asker(self) if self.mode == "rubric" else GroupAsker(self)


class Asker:
    """A judge of single answers."""

    def __init__(self, card: Judge) -> None:
        self._card, self.concurrency = card, card.concurrency
        self.call_deadline_s = card.tries * card.deadline_s + MARGIN_S
        remedy = f"check `url` and `model`, and the key in ${card.key}"
        key = os.environ.get(card.key) if card.key else None
        self._client = Client(card.url, card.model, key, deadline_s=card.deadline_s, concurrency=card.concurrency, hint=remedy)
        self._cache = Path(card.cache) if card.cache else None

    async def score_one(self, prompt: Prompt, trajectory: Trajectory) -> Score | Unscored:
        """The judge's score of one answer."""
        (found,) = await self._card.verdicts(prompt, [trajectory], self.ask)
        return found

    async def ask(self, messages: list[dict[str, str]], temperature: float) -> Reply:
        """The judge's reply, from the cache where it is there."""
        options: dict[str, Any] = {"temperature": temperature, "max_tokens": self._card.max_tokens}
        place = self._place(messages, options)
        if place is not None and (kept := _kept(place)) is not None:
            return Reply(kept)
        reply = await self._client.ask_async(messages, **options)
        if place is not None and not reply.failed:
            _keep(place, reply.text)
        return reply

    def _place(self, messages: list[dict[str, str]], options: dict[str, Any]) -> Path | None:
        if self._cache is None:
            return None
        name = digest_of([self._card.url, self._card.model, messages, options])
        return self._cache / name[:2] / f"{name}.json"


class GroupAsker(Asker):
    """A judge that compares all answers to a prompt."""

    splits = False

    def __init__(self, card: Judge) -> None:
        super().__init__(card)
        # a call is many requests: so many calls that together they are about `concurrency` requests, and a deadline in which they
        # can pass one after the other where there are more
        requests = card.requests(card.most_answers)
        self.concurrency = max(1, card.concurrency // requests)
        self.call_deadline_s = math.ceil(requests / card.concurrency) * card.tries * card.deadline_s + MARGIN_S

    async def score_all(self, prompt: Prompt, trajectories: list[Trajectory]) -> list[Score | Unscored]:
        """The judge's score of each answer."""
        return await self._card.verdicts(prompt, trajectories, self.ask)


def _kept(place: Path) -> str | None:
    try:
        found = json.loads(place.read_text())
    except (OSError, ValueError):
        return None
    return found["text"] if isinstance(found, dict) and isinstance(found.get("text"), str) else None


def _keep(place: Path, text: str) -> None:
    """By one rename: several processes write here. A full disk costs the cache and not the score."""
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(dir=place.parent)
        with os.fdopen(handle, "w") as file:
            json.dump({"text": text}, file)
        os.replace(name, place)
    except OSError as cause:
        print(f"the judge's reply could not be kept in {place.parent}: {cause}")
