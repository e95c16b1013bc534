"""Which endpoints a page talks to, from the environment of its process: the browser sees neither addresses nor keys."""

from __future__ import annotations

import asyncio
import os
import sys
import threading
from typing import NamedTuple

from .answers import Place, models, reason
from .conversation import Choice

ENDPOINT, KEY, MODEL = "RAYLM_ENDPOINT", "RAYLM_API_KEY", "RAYLM_MODEL"
SECOND = "_2"
HOST, PORT, TITLE = "RAYLM_DEMO_HOST", "RAYLM_DEMO_PORT", "RAYLM_DEMO_TITLE"
TIED = "RAYLM_DEMO_TIED"
"""Set where the page ends with the process that holds the other end of its standard input."""
LOOPBACK = ("127.0.0.1", "localhost", "::1")


class Served(NamedTuple):
    """What the endpoints list now, by the name that a user sees; `failed` says in words which did not answer."""

    choices: dict[str, Choice]
    second: str | None
    """The name that the other side begins with; None for one side."""
    failed: str


def places() -> list[Place]:
    """One endpoint, or two. Raises SystemExit where there is none: a Space without its secrets."""
    names = {"": "the endpoint", SECOND: "the second endpoint"}
    found = [
        Place(base(url), os.environ.get(KEY + at) or None, name)
        for at, name in names.items()
        if (url := os.environ.get(ENDPOINT + at))
    ]
    if not found:
        raise SystemExit(f"{ENDPOINT} is not set: the URL of an OpenAI-compatible endpoint, with /v1; {KEY} holds its key")
    return found


def tie() -> None:
    """End with whoever started this process, even when that is killed: nobody else would end a page that holds a key."""
    if os.environ.get(TIED):
        threading.Thread(target=lambda: (sys.stdin.buffer.read(), os._exit(0)), daemon=True).start()


def listens() -> tuple[str, int]:
    """Address and port of the page; a Space says them in Gradio's own variables."""
    host = os.environ.get(HOST) or os.environ.get("GRADIO_SERVER_NAME") or "127.0.0.1"
    return host, int(os.environ.get(PORT) or os.environ.get("GRADIO_SERVER_PORT") or 7860)


def base(url: str) -> str:
    """A URL of an OpenAI server, with the /v1 that its clients want."""
    trimmed = url.strip().rstrip("/")
    return trimmed if trimmed.endswith("/v1") else f"{trimmed}/v1"


async def served(found: list[Place]) -> Served:
    """Asks every endpoint for its models."""
    from openai import OpenAIError

    listed = await asyncio.gather(*(models(place) for place in found), return_exceptions=True)
    choices: dict[str, Choice] = {}
    failed, firsts = [], []
    for at, (place, names) in enumerate(zip(found, listed, strict=True)):
        if isinstance(names, OpenAIError):
            failed.append(reason(names, place.shown))
            continue
        if isinstance(names, BaseException):
            raise names
        wanted = os.environ.get(MODEL + (SECOND if at else ""))
        ordered = sorted(names, key=lambda name: name != wanted)
        for name in ordered:
            choices[name if name not in choices else f"{name} (second endpoint)"] = Choice(place, name)
        firsts += [list(choices)[-len(ordered)]] if ordered else []
    second = firsts[1] if len(firsts) > 1 else None
    return Served(choices, second, " ".join(failed))
