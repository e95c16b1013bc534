"""What a pool knows of its generators, and which of them may be given work: a table of states, without processes or clocks.

    STARTING --started--> STALE --proved--> HEALTHY --late--> SUSPECT --heard--> HEALTHY
                            ^                  |                  |
                            +---- outdated ----+------------------+       lost: any -> DEAD --renewed--> STARTING

A generator gets work only while it is HEALTHY, and it becomes that only by the version of the weights that is wanted now,
taken whole and proved: one that was started again, or that missed a transfer, is STALE until then.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum


class State(StrEnum):
    """Of one generator."""

    STARTING = "starting"
    """Its process and engine come up."""
    STALE = "stale"
    """It lives, and was not proved to hold the weights that are wanted: it gets no work."""
    HEALTHY = "healthy"
    """It holds them, and gets work."""
    SUSPECT = "suspect"
    """A sign of life is late: it keeps the work it has and gets no more."""
    DEAD = "dead"
    """Its process ended, or was ended."""


NEXT = {
    "started": {State.STARTING: State.STALE},
    "proved": {State.STALE: State.HEALTHY},
    "outdated": {State.STALE: State.STALE, State.HEALTHY: State.STALE, State.SUSPECT: State.STALE},
    "late": {State.HEALTHY: State.SUSPECT},
    "heard": {State.SUSPECT: State.HEALTHY},
    "lost": dict.fromkeys(State, State.DEAD),
    "renewed": {State.DEAD: State.STARTING},
}
"""State after each event, by the state before it. What is not here cannot happen."""


@dataclass
class Health:
    """Of the generator of one place."""

    state: State = State.STARTING
    version: int | None = None
    """Of the weights that it took whole; None while it holds none."""
    losses: int = 0
    """Times it was lost since it last answered all that had been lost with it."""
    refused: int = 0
    """Times that its log-probabilities were not those of the weights it was sent."""
    why: str = ""
    """How it was lost last."""

    def on(self, event: str) -> None:
        """Go to the state after `event`. Raises ValueError where it cannot happen."""
        if self.state not in NEXT[event]:
            raise ValueError(f"a generator that is {self.state} cannot be {event}")
        self.state = NEXT[event][self.state]
        if event in ("lost", "renewed"):
            self.version = None

    def lost(self, why: str) -> None:
        """It is gone, and this is how."""
        self.on("lost")
        self.losses, self.why = self.losses + 1, why

    def proved(self, wanted: int) -> None:
        """Its log-probabilities are those of the weights that are wanted. Raises ValueError where it took others."""
        if self.version != wanted:
            raise ValueError(f"a generator that took version {self.version} cannot be proved to hold version {wanted}")
        self.on("proved")

    @property
    def lives(self) -> bool:
        """Whether it has an engine that can take weights."""
        return self.state in (State.STALE, State.HEALTHY, State.SUSPECT)
