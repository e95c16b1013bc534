"""To the replica that has already read the beginning of the prompt."""

from __future__ import annotations

import random
from collections import OrderedDict
from collections.abc import Sequence
from itertools import pairwise
from typing import Literal

from pydantic import Field, PrivateAttr

from raylm.serve.routing.routing import Asked, Candidate, RoutingCard, not_flooded, work

TOKEN_BYTES = 4
"""Bytes of a token, about, of text in many languages."""


class Prefix(RoutingCard):
    """Where the least is to be done: the work that stands before a replica, less what of the prompt lies in its key-value cache.
    Only replicas that do not have much more work than others are chosen for it: a system prompt that all requests begin with
    would send all of them to one (sglang's router did, where it was told of no load).

    What each replica has read is remembered as a chain of digests, one for each block of text and all before it; the ones
    that were not asked for the longest are forgotten first, as in the engine's own cache.
    """

    kind: Literal["prefix"] = "prefix"
    block_bytes: int = Field(default=128, ge=16)
    """Bytes of text in a block; the engine's blocks are of 16 tokens, 60 bytes of English."""
    most_blocks: int = Field(default=200_000, ge=1)
    """Blocks that are remembered of all replicas together, about 150 bytes of memory each."""
    worth: float = Field(default=1.0, gt=0)
    """Tokens of work of others that one token which is already read outweighs."""
    bound: float = Field(default=1.5, ge=1)
    """Times the mean work of a replica that one may have and still be chosen for what it has read."""
    _seen: OrderedDict[int, None] = PrivateAttr(default_factory=OrderedDict)

    def choose(self, asked: Asked, candidates: Sequence[Candidate]) -> Candidate:
        able, chain = self.roomy(candidates), self._chain(asked)
        allowed = not_flooded(asked, able, self.bound)
        costs = [work(each, asked) - self.worth * self._known(each, chain) * self.block_bytes / TOKEN_BYTES for each in allowed]
        least = min(costs)
        chosen = random.choice([each for each, cost in zip(allowed, costs, strict=True) if cost == least])
        self._remember(chosen, chain)
        return chosen

    def _chain(self, asked: Asked) -> list[int]:
        """A digest for each whole block of the prompt and all before it. Python's own, which is seeded at random for each
        process: nobody can make two prompts that it takes for one."""
        # adapters have caches of their own
        digest, chain = hash(asked.model), []
        for begin, end in pairwise(range(0, len(asked.prefix) + 1, self.block_bytes)):
            digest = hash((digest, asked.prefix[begin:end]))
            chain.append(digest)
        return chain

    def _known(self, candidate: Candidate, chain: list[int]) -> int:
        """Blocks at the beginning of the chain that the replica has read. Whatever is remembered, all before it is, for it was
        asked for at least as late: so it is searched by halves."""
        own, seen, low, high = _own(candidate), self._seen, 0, len(chain)
        while low < high:
            middle = (low + high) // 2
            if own ^ chain[middle] in seen:
                low = middle + 1
            else:
                high = middle
        return low

    def _remember(self, candidate: Candidate, chain: list[int]) -> None:
        # a private attribute of pydantic's takes longer to look up than all of this
        own, seen = _own(candidate), self._seen
        # the first block last, so that it is forgotten last
        for digest in reversed(chain):
            seen[own ^ digest] = None
            seen.move_to_end(own ^ digest)
        while len(seen) > self.most_blocks:
            seen.popitem(last=False)


def _own(candidate: Candidate) -> int:
    """Of a start of a replica, and of its weights: others have another cache."""
    return hash((candidate.address.replica, candidate.address.fingerprint))
