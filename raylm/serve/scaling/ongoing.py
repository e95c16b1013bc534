"""As many replicas as requests under way ask for: Ray Serve's own rule."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.serve.scaling.observed import Flow, Observed
from raylm.serve.scaling.scaling import Need, Room, ScalingCard


class Ongoing(ScalingCard):
    """Requests under way, divided by `target` (`target_ongoing_requests` of Ray Serve). It knows no tokens: a target that fits
    short prompts is wrong for long ones."""

    kind: Literal["ongoing"] = "ongoing"
    target: float = Field(default=16.0, gt=0)
    """Requests under way at a replica."""

    def needs(self, observed: Observed, flow: Flow, room: Room) -> Need:
        return Need(observed.ongoing / self.target, f"{observed.ongoing} requests, {self.target:g} at a replica", "ongoing")
