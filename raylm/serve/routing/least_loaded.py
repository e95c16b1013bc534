"""To the replica with the least work before it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from typing import Literal

from pydantic import Field

from raylm.serve.routing.routing import Asked, Candidate, RoutingCard, lightest


class LeastLoaded(RoutingCard):
    """By tokens that are queued and under way, replicas with a full key-value cache last. Of many, the better of a few that are
    drawn: several gateways that all knew the same best one would send it everything until it tells its load again
    (power of two choices, https://doi.org/10.1109/71.963420)."""

    kind: Literal["least_loaded"] = "least_loaded"
    all_up_to: int = Field(default=16, ge=1)
    """Replicas up to which all are looked at."""
    samples: int = Field(default=2, ge=1)
    """Replicas that are drawn of more than these."""

    def choose(self, asked: Asked, candidates: Sequence[Candidate]) -> Candidate:
        able = self.roomy(candidates)
        if len(able) > self.all_up_to:
            able = random.sample(able, min(self.samples, len(able)))
        return lightest(asked, able, random.random())
