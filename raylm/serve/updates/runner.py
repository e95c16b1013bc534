"""Carries out what `raylm update` asks for: a state machine that Control turns, and that goes on where a Control before it died.

in place:  asked -> swapping: one replica after the other takes the order -> done
rolling:   asked -> starting -> proving -> canary (share, keys, copies) -> promoting: the old version drains -> done
anywhere:  a refusal, a failed proof, too many errors, `raylm rollback` -> stopped: clients have the old version again
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from raylm.core.errors import ArtifactError, PlacementError, StageError, StorageError
from raylm.serve.directory import Orders, Replica, WeightsOrder
from raylm.serve.rollout import Rollout
from raylm.serve.updates.desk import Desk, Growth, Prove
from raylm.serve.updates.history import Ask, Phase, Progress, Proof, Turn, Version, Versions, now
from raylm.serve.updates.verdict import Allowed, figures_of, reason_to_stop

PROVE_S = 20.0
"""Seconds after which a canary is proved again."""
LEAVE_S = 120.0
"""Seconds that the replicas of a version get to end."""
MOST_SAID = 50


class Runner:
    """The updates of one endpoint.

    Args:
        began: of each model, the version that it starts with where the history knows none: fingerprint and URI.
    """

    def __init__(self, desk: Desk, versions: Versions, growth: Growth, prove: Prove, began: dict[str, tuple[str, str]]) -> None:
        self._desk, self._versions, self._growth, self._prove, self._began = desk, versions, growth, prove, began
        self._ask: Ask | None = None
        self._at: Progress | None = None
        self._released: set[str] = set()
        self._refused: dict[str, str] = {}
        self._proved: set[tuple[str, str]] = set()
        self._since = self._proved_at = time.monotonic()
        self._stop_asked = ""
        self._resume()

    @property
    def progress(self) -> Progress | None:
        """Of the last update."""
        return self._at

    def order_for(self, model: str, replica: str, fingerprint: str, orders: Orders) -> Orders:
        """What one replica is ordered, where a model's `orders` hold for all of them: while an update is under way each has its
        own turn.

        Args:
            replica: its name; "" before it stands.
            fingerprint: of what it has, or of what its deployment begins with.
        """
        ask, at = self._ask, self._at
        if ask is None or at is None or at.over or model != ask.model:
            return orders
        # the deployment of a new version begins with its own weights
        own = ask.how == "rolling" and fingerprint == ask.fingerprint
        return orders._replace(weights=_order_of(ask)) if own or replica in self._released else orders

    def exchanged(self, replica: str, fingerprint: str, refused: str, figures: dict[str, Any]) -> None:
        """A replica took the weights that it was ordered, or did not."""
        if self._at is None or self._ask is None or fingerprint != self._ask.fingerprint:
            return
        if refused:
            self._refused[replica] = refused
        else:
            self._at = self._at.model_copy(update={"figures": {**self._at.figures, replica: figures}})

    async def turn(self) -> None:
        """One step, once a second."""
        try:
            await self._look()
            if self._at is not None and not self._at.over:
                await self._step(self._at.phase)
        except (StageError, PlacementError, ArtifactError) as cause:
            await self._stop(cause.what)
        except StorageError as cause:
            # a disk that does not answer now may do so the next time; clients have what they had
            await self._desk.decided({"what": "update", "why": f"a file cannot be read or written: {cause.what}"})

    async def _look(self) -> None:
        """Take up what was asked for."""
        asked = await asyncio.to_thread(self._versions.asked)
        if asked is None or (self._at is not None and asked.number == self._at.number):
            return
        if asked.stop:
            if self._at is not None and not self._at.over and asked.number != self._stop_asked:
                self._stop_asked = asked.number
                await self._stop(f"given up by {asked.by}{f': {asked.why}' if asked.why else ''}")
            return
        if self._at is not None and not self._at.over:
            return
        self._ask, self._refused, self._released, self._proved = asked, {}, set(), set()
        before = self._current(asked.model)
        self._at = Progress(
            number=asked.number,
            model=asked.model,
            fingerprint=asked.fingerprint,
            before=before[0],
            phase="asked",
            since=now(),
        )
        await self._enter("swapping" if asked.how == "in_place" else "starting", f"asked for by {asked.by}")

    async def _step(self, phase: Phase) -> None:
        steps = {
            "swapping": self._swapping,
            "starting": self._starting,
            "proving": self._proving,
            "canary": self._canary,
            "promoting": self._promoting,
        }
        await steps[phase]()

    # in place

    async def _swapping(self) -> None:
        """One replica after the other: what one refuses, no other is asked to take."""
        ask = self._asked()
        if self._refused:
            replica, why = next(iter(self._refused.items()))
            raise StageError(f"{replica}: {why}")
        left = [row for row in self._desk.rows(ask.model) if row.address.fingerprint != ask.fingerprint]
        going = [row for row in left if row.address.replica in self._released and row.state != "draining"]
        await self._proof(self._unproved())
        if going and time.monotonic() - self._since > ask.start_s:
            raise PlacementError(f"{going[0].address.replica} did not take the weights within {ask.start_s:g} s")
        if going:
            return
        ready = [row for row in left if row.state in ("ready", "spare")]
        if ready:
            if not self._released and ask.proof is not None:
                # what an engine reads once, template and end tokens, is compared before its weights change
                await self._proof(
                    ready[:1], ask.proof.model_copy(update={"turns": [_asked_alone(each) for each in ask.proof.turns]})
                )
            self._released.add(ready[0].address.replica)
            self._since = time.monotonic()
            await self._say(f"{ready[0].address.replica} takes the weights")
        elif not [row for row in left if row.state != "draining"]:
            # those that start from now on begin with them
            await self._desk.order_weights(ask.model, _order_of(ask))
            await self._done()

    # rolling

    async def _starting(self) -> None:
        ask = self._asked()
        if self._ready():
            await self._enter("proving", "a replica of the new version stands")
        elif time.monotonic() - self._since > ask.start_s:
            raise PlacementError(f"no replica of the new version was ready within {ask.start_s:g} s")

    async def _proving(self) -> None:
        ask = self._asked()
        await self._proof(self._ready())
        if ask.for_s and (ask.share or ask.keys or ask.shadow):
            self._lead(ask.share, tuple(ask.keys), ask.shadow)
            whom = f"keys {', '.join(ask.keys)}" if ask.keys else f"{ask.share:.1%} of the conversations"
            await self._enter("canary", f"it says what its checkpoint says; {whom}, {ask.shadow:.1%} copies, {ask.for_s:g} s")
        else:
            await self._promote("it says what its checkpoint says")

    async def _canary(self) -> None:
        ask, at = self._asked(), self._progress()
        told = self._desk.told(ask.number)
        self._at = at.model_copy(update={"figures": {**at.figures, **figures_of(told, at.before, ask.fingerprint)}})
        if why := reason_to_stop(told, at.before, ask.fingerprint, Allowed(ask.error_rate, ask.disagree_rate)):
            raise StageError(why)
        if not self._ready():
            # gateways give its requests to the old version meanwhile; a replica that comes again is waited for
            if time.monotonic() - self._proved_at > ask.start_s:
                raise PlacementError("no replica of the new version is ready any more")
            return
        if time.monotonic() - self._proved_at > PROVE_S:
            await self._proof(self._ready())
        await asyncio.to_thread(self._versions.tell, self._progress())
        if time.monotonic() - self._since > ask.for_s:
            await self._proof(self._ready())
            await self._promote(f"{ask.for_s:g} s without a reason against it")

    async def _promoting(self) -> None:
        """All requests go to the new version; the old one's replicas end when they have finished."""
        ask, at = self._asked(), self._progress()
        old = [row for row in self._desk.rows(ask.model) if row.address.fingerprint != ask.fingerprint]
        for row in old:
            if row.state in ("ready", "spare"):
                await self._desk.drain(row.address.replica)
        if old and time.monotonic() - self._since < LEAVE_S:
            await self._growth.stop(ask.model, at.before)
            return
        # not before: the old version's replicas would take it for an order to change
        await self._desk.order_weights(ask.model, _order_of(ask))
        await self._done()

    async def _proof(self, rows: list[Replica], proof: Proof | None = None) -> None:
        """Ask replicas what the checkpoint says."""
        proof = proof or self._asked().proof
        self._proved_at = time.monotonic()
        if proof is None:
            return
        for row in rows:
            await asyncio.to_thread(self._prove, row.address, proof)
            self._proved.add((row.address.replica, row.address.fingerprint))

    def _unproved(self) -> list[Replica]:
        """Replicas that took the new weights since."""
        fresh = [row for row in self._fresh() if row.state in ("ready", "spare")]
        return [row for row in fresh if (row.address.replica, row.address.fingerprint) not in self._proved]

    async def _promote(self, why: str) -> None:
        ask = self._asked()
        self._lead(1.0)
        await self._growth.keep(ask.model, ask.fingerprint)
        await self._enter("promoting", why)

    # both

    async def _done(self) -> None:
        ask, at = self._asked(), self._progress()
        self._desk.lead(None)
        version = Version(
            model=ask.model,
            fingerprint=ask.fingerprint,
            uri=ask.uri,
            how=ask.how,
            began=now(),
            by=ask.by,
            content=ask.content,
            report=ask.report,
            figures=at.figures,
        )
        await asyncio.to_thread(self._record, version, ask.why or f"updated by {ask.by}")
        await self._enter("done", f"clients of {ask.model} have {ask.fingerprint}")

    def _record(self, version: Version, why: str) -> None:
        if self._versions.current(version.model) is None and version.model in self._began:
            fingerprint, uri = self._began[version.model]
            first = Version(model=version.model, fingerprint=fingerprint, uri=uri, how="start", began=version.began, by="")
            self._versions.began(first, "")
        self._versions.began(version, why)

    async def _stop(self, why: str) -> None:
        """Clients have the old version again, and the new one's replicas end."""
        ask, at = self._asked(), self._progress()
        if at.phase == "promoting":
            # the old version has gone; a rollback is another update
            await self._say(f"too late to stop: {why}")
            return
        self._released.clear()
        if ask.how == "rolling":
            self._lead(0.0)
            await self._growth.stop(ask.model, ask.fingerprint)
            await self._gone()
            self._desk.lead(None)
        else:
            await self._back(ask.model, at.before)
        await self._enter("stopped", why)

    async def _gone(self) -> None:
        """Wait for the end of the new version's replicas: without a rollout they would be asked."""
        until = time.monotonic() + LEAVE_S
        while self._fresh() and time.monotonic() < until:
            await asyncio.sleep(0.05)
        for row in self._fresh():
            await self._desk.drain(row.address.replica)

    async def _back(self, model: str, before: str) -> None:
        """Replicas that took the new weights take the old ones again."""
        if self._desk.ordered(model).weights is None and (uri := self._uri(model, before)):
            await self._desk.order_weights(model, WeightsOrder(uri, before))

    def _resume(self) -> None:
        """What a Control before this one did not end. Gateways must not take its new version for a replica like others."""
        self._at = self._versions.progress()
        if self._at is None or self._at.over:
            return
        self._ask = self._versions.asked()
        if self._ask is None or self._ask.number != self._at.number:
            self._at = self._at.model_copy(update={"phase": "stopped"})
            return
        if self._ask.how == "rolling":
            share = {"canary": self._ask.share, "promoting": 1.0}.get(self._at.phase, 0.0)
            keys, copies = (tuple(self._ask.keys), self._ask.shadow) if self._at.phase == "canary" else ((), 0.0)
            self._lead(share, keys, copies)

    def _lead(self, share: float, keys: tuple[str, ...] = (), shadow: float = 0.0) -> None:
        ask, at = self._asked(), self._progress()
        self._desk.lead(Rollout(ask.model, at.before, ask.fingerprint, share, keys, shadow, ask.number))

    def _fresh(self) -> list[Replica]:
        ask = self._asked()
        return [row for row in self._desk.rows(ask.model) if row.address.fingerprint == ask.fingerprint]

    def _ready(self) -> list[Replica]:
        return [row for row in self._fresh() if row.state == "ready"]

    def _current(self, model: str) -> tuple[str, str]:
        """Fingerprint and URI of what clients have."""
        if (ordered := self._desk.ordered(model).weights) is not None:
            return ordered.fingerprint, ordered.uri
        if (known := self._versions.current(model)) is not None:
            return known.fingerprint, known.uri
        return self._began.get(model, ("", ""))

    def _uri(self, model: str, fingerprint: str) -> str:
        known = [(each.fingerprint, each.uri) for each in self._versions.read() if each.model == model]
        return dict([*known, self._began.get(model, ("", ""))]).get(fingerprint, "")

    async def _enter(self, phase: Phase, why: str) -> None:
        self._at = self._progress().model_copy(update={"phase": phase})
        self._since = self._proved_at = time.monotonic()
        await self._say(f"{phase}: {why}")
        if phase == "starting":
            # before its replicas stand: gateways must not take them for others
            self._lead(0.0)
            ask = self._asked()
            await self._growth.start(ask.model, WeightsOrder(ask.uri, ask.fingerprint))

    async def _say(self, words: str) -> None:
        at = self._progress()
        self._at = at.model_copy(update={"said": [*at.said, f"{now()} {words}"][-MOST_SAID:]})
        await self._desk.decided({"what": "update", "model": at.model, "fingerprint": at.fingerprint, "why": words})
        await asyncio.to_thread(self._versions.tell, self._at)

    def _asked(self) -> Ask:
        assert self._ask is not None
        return self._ask

    def _progress(self) -> Progress:
        assert self._at is not None
        return self._at


def _asked_alone(turn: Turn) -> Turn:
    return turn.model_copy(update={"greedy": [], "likely": []})


def _order_of(ask: Ask) -> WeightsOrder:
    proof = ask.proof
    probes = tuple((tuple(each.tokens), tuple(each.logprobs)) for each in proof.probes) if proof else ()
    return WeightsOrder(ask.uri, ask.fingerprint, probes)
