"""What the gateway asks of a routing card: which of the replicas that may answer gets the next request.

gateway: Asked, [Candidate, ...] --choose--> Candidate
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from pydantic import Field

from raylm.core.config import Config
from raylm.serve.directory import Address, Load


class Asked(NamedTuple):
    """A request, as far as its place depends on it."""

    model: str
    """Name that it asks for, of a model or of an adapter."""
    path: str
    key: str = ""
    """Name of its key."""
    session: str = ""
    """What it goes on with (`session_of`); "" where it does not say."""
    prefix: bytes = b""
    """Beginning of its messages or its prompt, at most 8 KB."""
    tokens: int = 0
    """Tokens of prompt and answer together, estimated."""


class Candidate(NamedTuple):
    """A replica that may be asked, with what is known of its load: what it told last, and what this gateway sent since."""

    address: Address
    load: Load = Load()
    under_way: int = 0
    """Requests that this gateway sent it and that have not ended."""
    under_way_tokens: int = 0
    """Their tokens."""
    others: int = 0
    """Requests there that other gateways sent, as far as it told."""


class RoutingCard(Config):
    """Chooses a replica. One object for each model and gateway sees all requests, one after the other, so it may remember in
    private attributes what takes bounded memory; nothing is lost when a gateway begins anew but what it remembered."""

    kv_full: float = Field(default=0.95, gt=0, le=1)
    """Part of the key-value cache from which a replica is asked only when all are as full: its engine would throw running
    requests out to take another."""

    def choose(self, asked: Asked, candidates: Sequence[Candidate]) -> Candidate:
        """One of `candidates`, of which there is at least one."""
        raise NotImplementedError

    def roomy(self, candidates: Sequence[Candidate]) -> Sequence[Candidate]:
        """Those whose cache is not full; all where none is. A replica that has told nothing yet counts as one with room."""
        found = [each for each in candidates if (each.load.kv_use or 0.0) < self.kv_full]
        return found or candidates


def work(candidate: Candidate, asked: Asked) -> int:
    """Tokens that stand before a replica, estimated: of what this gateway sent; of prompts that it said it has not read yet; and
    of requests of other gateways, each taken to be like `asked`. What this gateway sent counts at once, so that a replica which
    is slow to tell, or never does, is not flooded meanwhile; of it, prompts that wait to be read count twice, for the next one
    waits for them."""
    unread, others = candidate.load.queued_tokens or 0, candidate.others * max(asked.tokens, 1)
    return candidate.under_way_tokens + max(unread, others)


def not_flooded(asked: Asked, candidates: Sequence[Candidate], bound: float) -> list[Candidate]:
    """Those that have at most `bound` times the mean of work, with `asked` counted in. At least one has: that with the least.

    Bounded loads: https://arxiv.org/abs/1608.01350. Whoever adds only to these leaves no replica above `bound` means and one
    request.
    """
    works = [work(each, asked) for each in candidates]
    most = bound * (sum(works) + max(asked.tokens, 1)) / len(works)
    return [each for each, has in zip(candidates, works, strict=True) if has <= most]


def lightest(asked: Asked, candidates: Sequence[Candidate], draw: float = 0.0) -> Candidate:
    """That with the least work; `draw`, 0 to 1, says which one where several have it."""
    works = [work(each, asked) for each in candidates]
    least = min(works)
    same = [each for each, has in zip(candidates, works, strict=True) if has == least]
    return same[min(math.floor(draw * len(same)), len(same) - 1)]


SESSION_HEADER = "x-session-id"
SESSION_FIELDS = ("prompt_cache_key", "previous_response_id", "user")


def session_of(headers: Mapping[str, str], body: Mapping[str, Any]) -> str:
    """What a request goes on with, most certain first: the header, then fields of OpenAI's API that stay the same throughout a
    conversation or for a person; "" where it says none. At most 200 characters: longer ones are no names."""
    said = [headers.get(SESSION_HEADER), *(body.get(field) for field in SESSION_FIELDS)]
    return next((text[:200] for text in said if isinstance(text, str) and text), "")
