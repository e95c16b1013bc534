"""What a scaling card is asked: how many replicas the load needs now. When that is done, `decide` says."""

from __future__ import annotations

from typing import NamedTuple

from pydantic import Field

from raylm.core.config import Config
from raylm.serve.scaling.observed import Flow, Observed


class Room(NamedTuple):
    """What a card may know of how the model is served."""

    answering: int
    """Replicas that run and answer: those that are no spares; at least 1 where one runs."""
    most_ongoing: int
    """Requests that one replica takes at once."""
    cold_start_s: float
    """Seconds that a new one takes until it answers."""


class Need(NamedTuple):
    """Replicas that should answer, not rounded, and why."""

    replicas: float
    why: str
    kind: str = ""
    """In one word, for logs and figures: `queue`, `ttft`, `kv`, ..."""
    keep: float | None = None
    """Replicas that must stay, where that is less: what is needed for a moment asks for more, and does not keep them."""

    @property
    def stays(self) -> float:
        """Replicas that must stay."""
        return self.replicas if self.keep is None else min(self.keep, self.replicas)


class ScalingCard(Config):
    """Says how many replicas a load needs. It is asked in Serve's controller, twice a second, and keeps nothing: what it needs to
    know of the past is in `Flow`."""

    look_back_s: float = Field(default=30.0, ge=1)
    """Seconds over which the load is looked at."""

    def needs(self, observed: Observed, flow: Flow, room: Room) -> Need:
        """Replicas that should answer now, not counting spares; below 1 where one would be idle."""
        raise NotImplementedError
