"""As many replicas as keep the time to the first token where it is wanted."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.serve.scaling.observed import Flow, Observed
from raylm.serve.scaling.scaling import Need, Room, ScalingCard

HELPS = 2.0
"""Most replicas that a first token which is late asks for, times those that answer."""
RECENT_S, LEAST_PROMPTS = 3.0, 16
"""Seconds, and prompts at least, over which what arrives is counted: a burst is soon forgotten, what lasts outlasts the delay."""
LATE = 1.5
"""Half of -ln(0.05): prompts' length times this, over the target, is what must be idle for one in twenty to be late."""
PRESSING = 0.5
"""Part of what replicas can read that arrives, from which a late first token is no echo of a burst."""
LEAST = 0.001
"""Of a replica: who has anything to do needs one."""


class Tokens(ScalingCard):
    """By tokens, not by requests, which may be of ten tokens or of ten thousand: the most demanding of

    - queue: tokens that arrive, and that will still wait when a new replica could answer, against what one was measured to read:
      a replica that comes when the queue is gone costs and helps nobody;
    - ttft: first tokens that are later than the target, while prompts wait (a long prompt alone is read no faster by two);
    - kv: the part of the key-value caches that is taken;
    - room: requests, against those that a replica takes at once;
    - steady: what replicas were seen to carry while nobody waited, so that none is removed which the others cannot replace.
    """

    kind: Literal["tokens"] = "tokens"
    target_ttft_s: float = Field(default=2.0, gt=0)
    """Seconds to the first token that are wanted."""
    target_use: float = Field(default=0.85, gt=0, le=1)
    """Part of what a replica can read that it should be given at most; less where prompts are long for the target."""
    target_kv: float = Field(default=0.8, gt=0, le=1)
    """Part of the key-value caches that should be taken."""

    def needs(self, observed: Observed, flow: Flow, room: Room) -> Need:
        found = [
            self._steady(observed, flow),
            self._queue(observed, flow, room, RECENT_S),
            self._ttft(observed, flow, room),
            self._kv(observed),
            self._room(observed, flow, room),
        ]
        kept = [*found[:1], self._queue(observed, flow, room, self.look_back_s), *found[2:]]
        return max(found, key=lambda need: need.replicas)._replace(keep=max(need.replicas for need in kept))

    def _queue(self, observed: Observed, flow: Flow, room: Room, seconds: float) -> Need:
        if not flow.capacity:
            return Need(0.0, "no queue so far", "queue")
        arriving_s, lately_s, waits = flow.arriving_s(), flow.arriving_s(seconds, LEAST_PROMPTS), flow.waiting
        # those that are starting come half a start from now, on average
        reads_s = flow.capacity * (room.answering + max(observed.target - observed.running, 0) / 2)
        later = max(0.0, waits + (lately_s - reads_s) * room.cold_start_s)
        patience = max(self.target_ttft_s, room.cold_start_s)
        # prompts come at random: for one in twenty to be late, and no more, replicas must be idle for as long as 1.5 prompts
        # take in each target (the tail of M/D/n); the longer the prompts, the more
        itself_s = flow.per_request / flow.capacity
        idle_s = LATE * flow.per_request / max(self.target_ttft_s - itself_s, itself_s) if arriving_s else 0.0
        overload = lately_s + later / patience if later else 0.0
        needed = max(arriving_s / self.target_use, arriving_s + idle_s, overload) / flow.capacity
        why = f"{lately_s:.0f} tokens/s arrive, {waits:.0f} wait, {later:.0f} will when another could start; a replica reads"
        return Need(needed, f"{why} {flow.capacity:.0f} tokens/s", "queue")

    def _ttft(self, observed: Observed, flow: Flow, room: Room) -> Need:
        late = max((load.ttft_s for load in observed.known if load.ttft_s is not None), default=0.0)
        why = f"the first token takes {late:.2f} s, {self.target_ttft_s:g} s are wanted"
        queues = any((load.waiting or 0) > 0 or (load.queued_tokens or 0) > 0 for load in observed.known)
        # one that did not answer yet has not helped yet
        settled = all(load is not None for load in observed.loads.values()) and observed.running >= observed.target
        # when a burst is over, the queue is read before a new one stands, or `_queue` says that it is not
        over = (
            bool(flow.capacity) and flow.arriving_s(RECENT_S, LEAST_PROMPTS) < PRESSING * (flow.capacity or 0.0) * room.answering
        )
        if late <= self.target_ttft_s or not queues or not settled or over:
            return Need(0.0, why, "ttft")
        # with a rate that is known the queue says how many more; this is for what it does not see
        most = room.answering + 1 if flow.capacity else HELPS * room.answering
        return Need(min(room.answering * late / self.target_ttft_s, most), why, "ttft")

    def _kv(self, observed: Observed) -> Need:
        taken = sum(load.kv_use or 0.0 for load in observed.known)
        return Need(taken / self.target_kv, f"key-value caches of {taken:.2f} replicas are taken", "kv")

    def _room(self, observed: Observed, flow: Flow, room: Room) -> Need:
        running = sum(load.running or 0 for load in observed.known)
        # those that wait are tokens that wait, as soon as a replica's pace is known
        waits = 0 if flow.capacity else observed.ongoing - running
        why = f"{running + waits} requests, {room.most_ongoing} at a replica"
        return Need((running + waits) / room.most_ongoing, why, "room")

    def _steady(self, observed: Observed, flow: Flow) -> Need:
        if not observed.ongoing:
            return Need(0.0, "nobody asks", "idle")
        made = sum(load.tokens_s or 0.0 for load in observed.known)
        carried = max(flow.carried, (flow.capacity or 0.0) * self.target_use)
        parts = [flow.arriving_s() / carried if carried else 0.0, made / flow.made if flow.made else 0.0]
        # what was carried is the least that can be: it keeps replicas, and asks for none
        needed = min(max(parts), float(len(observed.known)))
        return Need(max(needed, LEAST), f"{flow.arriving_s():.0f} tokens/s arrive and {made:.0f} are made", "steady")
