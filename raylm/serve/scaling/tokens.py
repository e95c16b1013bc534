"""As many replicas as keep the time to the first token where it is wanted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.serve.scaling.observed import Flow, Observed
from raylm.serve.scaling.scaling import Need, Room, ScalingCard

HELPS = 2.0
"""Most replicas that a first token which is late asks for, times those that answer."""
RECENT_S = 3.0
"""Seconds over which what arrives is counted: a burst is forgotten when they are over, and what lasts outlasts the delay."""
PRESSING = 0.5
"""Part of what replicas can read that arrives, from which a late first token is no echo of a burst."""
LEAST = 0.001
"""Of a replica: who has anything to do needs one."""


class Tokens(ScalingCard):
    """By tokens, not by requests, which may be of ten tokens or of ten thousand: the most demanding of

    - queue: tokens that arrive and that wait, against what one replica was measured to read. What waits may take as long as
      the target, or as a new replica needs to start: one that comes when the queue is gone costs and helps nobody;
    - ttft: first tokens that are later than the target, while prompts wait (a long prompt alone is read no faster by two);
    - kv: the part of the key-value caches that is taken;
    - room: requests, against those that a replica takes at once;
    - steady: what replicas were seen to carry while nobody waited, so that none is removed which the others cannot replace.
    """

    kind: Literal["tokens"] = "tokens"
    target_ttft_s: float = Field(default=2.0, gt=0)
    """Seconds to the first token that are wanted."""
    target_use: float = Field(default=0.8, gt=0, le=1)
    """Part of what a replica can read that it should be given."""
    target_kv: float = Field(default=0.8, gt=0, le=1)
    """Part of the key-value caches that should be taken."""

    def needs(self, observed: Observed, flow: Flow, room: Room) -> Need:
        found = [
            self._steady(observed, flow),
            self._queue(flow, room),
            self._ttft(observed, flow, room),
            self._kv(observed),
            Need(observed.ongoing / room.most_ongoing, f"{observed.ongoing} requests, {room.most_ongoing} at a replica", "room"),
        ]
        return max(found, key=lambda need: need.replicas)

    def _queue(self, flow: Flow, room: Room) -> Need:
        if not flow.capacity:
            return Need(0.0, "no queue so far", "queue")
        arriving_s, patience = flow.arriving_s(RECENT_S), max(self.target_ttft_s, room.cold_start_s)
        # what waits is caught up with as fast as a replica reads; what arrives must leave it some room
        needed = max(arriving_s / self.target_use, arriving_s + flow.waiting / patience) / flow.capacity
        drain_s = flow.waiting / (flow.capacity * max(room.answering, 1))
        why = (
            f"{arriving_s:.0f} tokens/s arrive and {flow.waiting:.0f} wait ({drain_s:.1f} s), a replica reads "
            f"{flow.capacity:.0f} tokens/s"
        )
        return Need(needed, why, "queue")

    def _ttft(self, observed: Observed, flow: Flow, room: Room) -> Need:
        late = max((load.ttft_s for load in observed.known if load.ttft_s is not None), default=0.0)
        why = f"the first token takes {late:.2f} s, {self.target_ttft_s:g} s are wanted"
        queues = any((load.waiting or 0) > 0 or (load.queued_tokens or 0) > 0 for load in observed.known)
        # one that did not answer yet has not helped yet
        settled = all(load is not None for load in observed.loads.values()) and observed.running >= observed.target
        # when a burst is over, the queue is read before a new one stands, or `_queue` says that it is not
        over = bool(flow.capacity) and flow.arriving_s(RECENT_S) < PRESSING * (flow.capacity or 0.0) * room.answering
        if late <= self.target_ttft_s or not queues or not settled or over:
            return Need(0.0, why, "ttft")
        # with a rate that is known the queue says how many more; this is for what it does not see
        most = room.answering + 1 if flow.capacity else HELPS * room.answering
        return Need(min(room.answering * late / self.target_ttft_s, most), why, "ttft")

    def _kv(self, observed: Observed) -> Need:
        taken = sum(load.kv_use or 0.0 for load in observed.known)
        return Need(taken / self.target_kv, f"key-value caches of {taken:.2f} replicas are taken", "kv")

    def _steady(self, observed: Observed, flow: Flow) -> Need:
        if not observed.ongoing:
            return Need(0.0, "nobody asks", "idle")
        made = sum(load.tokens_s or 0.0 for load in observed.known)
        carried = max(flow.carried, (flow.capacity or 0.0) * self.target_use)
        parts = [flow.arriving_s() / carried if carried else 0.0, made / flow.made if flow.made else 0.0]
        # what was carried is the least that can be: it keeps replicas, and asks for none
        needed = min(max(parts), float(len(observed.known)))
        return Need(max(needed, LEAST), f"{flow.arriving_s():.0f} tokens/s arrive and {made:.0f} are made", "steady")
