"""To the replica that the conversation was sent to before."""

from __future__ import annotations

import random
from collections.abc import Sequence
from hashlib import blake2b
from typing import Literal

from pydantic import Field

from raylm.serve.routing.routing import Asked, Candidate, RoutingCard, lightest, not_flooded


class Session(RoutingCard):
    """All requests of a session to one replica, by its `x-session-id`, or by what its body says (`session_of`); those that say
    nothing go where the least work is.

    Each session has an order of its own of all replicas (rendezvous hashing, https://doi.org/10.1109/90.663936): when one goes,
    only its sessions move; when one comes, only those that it is now the first for. The first that has not more work than others
    is taken. Nothing is remembered, and all gateways choose alike.
    """

    kind: Literal["session"] = "session"
    bound: float = Field(default=1.5, ge=1)
    """Times the mean work of a replica that one may have and still be chosen; then the session's next one is."""

    def choose(self, asked: Asked, candidates: Sequence[Candidate]) -> Candidate:
        able = self.roomy(candidates)
        if not asked.session:
            return lightest(asked, able, random.random())
        # two keys that both say "1" are two sessions
        session = blake2b(f"{asked.key}\0{asked.session}".encode(), digest_size=16).digest()
        return max(not_flooded(asked, able, self.bound), key=lambda each: _rank(session, each))


def _rank(session: bytes, candidate: Candidate) -> bytes:
    return blake2b(candidate.address.replica.encode(), key=session, digest_size=8).digest()
