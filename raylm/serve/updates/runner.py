"""Carries out what `raylm update` asks for: a state machine that Control turns, and that goes on where a Control before it died.

asked -> swapping: a replica takes the order, is proved, then the next -> done
         as many as the share asks for -> canary (share, keys, copies) -> promoting: the others -> done
anywhere: a refusal, a failed proof, too many errors, `raylm rollback` -> stopped: all replicas have the old version again

How a replica takes weights is its own matter: in place, or (rolling) in a new process while its old one drains.
"""

from __future__ import annotations

import asyncio
import time
from typing import Any

from raylm.core.errors import ArtifactError, PlacementError, StageError, StorageError
from raylm.serve.directory import Orders, Replica, WeightsOrder
from raylm.serve.updates.desk import Desk, Prove
from raylm.serve.updates.history import Ask, Phase, Progress, Proof, Turn, Version, Versions, now
from raylm.serve.updates.rollout import Allowed, Rollout
from raylm.serve.updates.verdict import figures_of, reason_to_stop

FAULTS = (ArithmeticError, AttributeError, ImportError, LookupError, OSError, RuntimeError, TypeError, ValueError)
"""What a proof by a library may raise besides the errors of raylm."""
PROVE_S = 20.0
"""Seconds after which a canary is proved again."""
MOST_SAID = 50
COME_S = 5.0
"""Seconds after its own start in which Control does not take a replica for gone that it does not know."""


class Runner:
    """The updates of one endpoint.

    Args:
        began: of each model, the version that it starts with where the history knows none: fingerprint and URI.
    """

    def __init__(self, desk: Desk, versions: Versions, prove: Prove, began: dict[str, tuple[str, str]]) -> None:
        self._desk, self._versions, self._prove, self._began = desk, versions, prove, began
        self._ask: Ask | None = None
        self._at: Progress | None = None
        self._released: set[str] = set()
        self._refused: dict[str, str] = {}
        self._proved: set[tuple[str, str, int]] = set()
        self._since = self._proved_at = time.monotonic()
        self._stop_asked, self._desk_leads, self._settle_s = "", False, 0.0
        self._unread = ""
        self._resume()

    def order_for(self, model: str, replica: str, fingerprint: str, orders: Orders) -> Orders:
        """What one replica is ordered, where a model's `orders` hold for all of them: while an update is under way each has its
        own turn.

        Args:
            fingerprint: of what it has now.
        """
        ask, at = self._ask, self._at
        if ask is None or at is None or at.over or model != ask.model:
            return orders
        takes = replica in self._released or fingerprint == ask.fingerprint
        return orders._replace(weights=_order_of(ask)) if takes else orders

    def exchanged(self, replica: str, fingerprint: str, refused: str, figures: dict[str, Any]) -> None:
        """A replica took the weights that it was ordered, or did not."""
        if self._at is None or self._ask is None or fingerprint != self._ask.fingerprint:
            return
        if refused:
            self._refused[replica] = refused
        else:
            self._at = self._at.model_copy(update={"figures": {**self._at.figures, replica: figures}})

    async def turn(self) -> None:
        """One step, twice a second."""
        try:
            self._settle()
            await self._look()
            if self._at is not None and not self._at.over:
                await (self._canary() if self._at.phase == "canary" else self._swapping())
        except StorageError as cause:
            # a disk that does not answer now may do so the next time; clients have what they had
            await self._cannot_read(f"a file cannot be read or written: {cause.what}")
        except (StageError, PlacementError, ArtifactError) as cause:
            if self._at is None or self._at.over:
                # what is asked for cannot be read; an update that has ended is not stopped by it
                await self._cannot_read(cause.what)
            else:
                await self._stop(cause.what)
        except FAULTS as fault:
            # a fault of the update, not of the endpoint: tried again it would come again, twice a second
            if self._at is None or self._at.over:
                await self._cannot_read(f"{type(fault).__name__}: {fault}")
            else:
                await self._stop(f"{type(fault).__name__}: {fault}")
        else:
            self._unread = ""

    async def _cannot_read(self, why: str) -> None:
        """Say it once, not twice a second."""
        if why != self._unread:
            self._unread = why
            await self._desk.decided({"what": "update", "why": why})

    async def _look(self) -> None:
        """Take up what was asked for."""
        asked = await asyncio.to_thread(self._versions.asked)
        if asked is None or (self._at is not None and asked.number == self._at.number):
            return
        if asked.stop:
            if self._at is not None and not self._at.over and asked.number != self._stop_asked:
                self._stop_asked = asked.number
                await self._stop(f"given up by {asked.by}{f': {asked.why}' if asked.why else ''}")
        elif self._at is None or (self._at.over and not self._desk_leads):
            await self._begin(asked)

    async def _begin(self, asked: Ask) -> None:
        self._ask, self._refused, self._released, self._proved, self._desk_leads = asked, {}, set(), set(), False
        self._at = Progress(
            number=asked.number,
            model=asked.model,
            fingerprint=asked.fingerprint,
            before=self._current(asked.model)[0],
            phase="swapping",
            since=now(),
        )
        rows = self._rows()
        if not rows:
            raise PlacementError("no replica of it stands: send it a request, and ask again")
        if self._has_canary and len(rows) < 2:
            raise PlacementError("a canary stands beside the old version, and there is one replica: replicas = {min = 2}")
        if asked.how == "rolling" or self._has_canary:
            # gateways must not take a replica with unproved weights for one like others
            self._lead(0.0)
        elif asked.proof is not None:
            # what an engine reads once, template and end tokens, is compared before its weights change
            alone = asked.proof.model_copy(update={"turns": [_prompt_alone(each) for each in asked.proof.turns]})
            await self._prove_all([row for row in rows if row.state in ("ready", "spare")][:1], alone)
        await self._enter("swapping", f"asked for by {asked.by}")

    async def _swapping(self) -> None:
        """One replica after the other: what one refuses, no other is asked to take."""
        ask, rows = self._asked(), self._rows()
        if self._refused:
            replica, why = next(iter(self._refused.items()))
            raise StageError(f"{replica}: {why}")
        await self._prove_all(self._unproved(), ask.proof)
        done, left = self._fresh(), [row for row in rows if row.address.fingerprint != ask.fingerprint]
        if left and (why := self._desk.told(ask.number).stop):
            raise StageError(why)
        if self._progress().phase == "swapping" and self._has_canary and len(done) >= self._wanted(len(rows)):
            await self._begin_canary()
            return
        if done and (self._progress().phase == "promoting" or not self._has_canary) and self._desk_leads:
            # as many conversations as replicas; of these none goes back to the old version
            self._lead(1.0 if not left else len(done) / len(rows))
        going = [row for row in left if row.address.replica in self._released]
        if going and time.monotonic() - self._since > ask.start_s:
            raise PlacementError(f"{going[0].address.replica} did not take the weights within {ask.start_s:g} s")
        able = sorted((row for row in left if row.state in ("ready", "spare")), key=lambda row: row.state != "spare")
        if able and not going and len(done) == len(rows) - len(left):
            self._released.add(able[0].address.replica)
            self._since = time.monotonic()
            await self._say(f"{able[0].address.replica} takes the weights")
        elif rows and not left and len(done) == len(rows):
            await self._done()

    async def _begin_canary(self) -> None:
        ask = self._asked()
        whom = f"keys {', '.join(ask.keys)}" if ask.keys else f"{ask.share:.1%} of the conversations"
        await self._enter("canary", f"it says what its checkpoint says; {whom}, {ask.shadow:.1%} copies, for {ask.for_s:g} s")
        self._lead(ask.share, tuple(ask.keys), ask.shadow)

    async def _canary(self) -> None:
        ask, at = self._asked(), self._progress()
        told = self._desk.told(ask.number)
        self._at = at.model_copy(update={"figures": {**at.figures, **figures_of(told, at.before, ask.fingerprint)}})
        if why := told.stop or reason_to_stop(told, at.before, ask.fingerprint, self._allows):
            raise StageError(why)
        if unproved := self._unproved():
            # one that began anew, or all where Control did
            await self._prove_all(unproved, ask.proof)
        if not self._fresh():
            # gateways give its requests to the old version meanwhile; a replica that comes again is waited for
            if time.monotonic() - self._proved_at > ask.start_s:
                raise PlacementError("no replica of the new version is ready any more")
            return
        over = time.monotonic() - self._since > ask.for_s
        if over or time.monotonic() - self._proved_at > PROVE_S:
            await self._prove_all([row for row in self._fresh() if row.state == "ready"], ask.proof)
        if over:
            await self._enter("promoting", f"{ask.for_s:g} s without a reason against it")
        else:
            await asyncio.to_thread(self._versions.tell, self._progress())

    async def _prove_all(self, rows: list[Replica], proof: Proof | None) -> None:
        """Ask replicas what the checkpoint says. Raises StageError."""
        self._proved_at = time.monotonic()
        for row in rows:
            if proof is not None:
                await asyncio.to_thread(self._prove, row.address, proof)
            self._proved.add(_who(row))

    def _unproved(self) -> list[Replica]:
        """Replicas that took the new weights since."""
        fresh = [row for row in self._rows() if row.address.fingerprint == self._asked().fingerprint]
        return [row for row in fresh if row.state in ("ready", "spare") and _who(row) not in self._proved]

    async def _done(self) -> None:
        ask, at = self._asked(), self._progress()
        # those that start from now on begin with it
        await self._desk.order_weights(ask.model, _order_of(ask))
        self._desk_leads = False
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
            lineage=ask.lineage,
            figures=at.figures,
        )
        await asyncio.to_thread(self._record, version, ask.why or f"updated by {ask.by}")
        await self._enter("done", f"clients of {ask.model} have {ask.fingerprint}")

    def _record(self, version: Version, why: str) -> None:
        known = self._versions.current(version.model)
        if known is not None and (known.fingerprint, known.uri) == (version.fingerprint, version.uri):
            # a Control before this one wrote it, and died before it said so
            return
        if self._versions.current(version.model) is None and version.model in self._began:
            fingerprint, uri = self._began[version.model]
            first = Version(model=version.model, fingerprint=fingerprint, uri=uri, how="start", began=version.began, by="")
            self._versions.began(first, "")
        self._versions.began(version, why)

    async def _stop(self, why: str) -> None:
        """All replicas have the old version again."""
        ask, at = self._asked(), self._progress()
        if self._desk_leads:
            self._lead(0.0)
        if self._desk.ordered(ask.model).weights is None and (uri := self._uri(ask.model, at.before)):
            # those that took the new weights come back the same way
            await self._desk.order_weights(ask.model, WeightsOrder(uri, at.before, (), ask.how == "in_place"))
        self._released.clear()
        await self._enter("stopped", why)

    def _settle(self) -> None:
        """Gateways route as usual again once nobody has the version that was given up, however long that takes: without a rollout
        it would be asked."""
        if (at := self._at) is None or not at.over or not self._desk_leads:
            return
        rows = [row for row in self._desk.rows(at.model) if row.state != "draining"]
        if not any(row.address.fingerprint == at.fingerprint for row in rows) and time.monotonic() - self._since > self._settle_s:
            self._desk_leads = False
            self._desk.lead(None)

    def _resume(self) -> None:
        """What a Control before this one did not end. Gateways must not take its new version for one like others."""
        try:
            self._at, self._ask = self._versions.progress(), self._versions.asked()
        except ArtifactError:
            # an endpoint serves without its last update's story; the next turn says what cannot be read
            return
        if self._at is None or self._at.over:
            # an endpoint that was started anew has no ask: all of it is over
            if self._at is not None and self._ask is not None and self._at.phase == "stopped":
                # some may have it still, and have not all come again yet
                self._settle_s = COME_S
                self._lead(0.0)
            return
        if self._ask is None or (self._ask.number != self._at.number and not self._ask.stop):
            self._at = self._at.model_copy(update={"phase": "stopped"})
        elif self._ask.number != self._at.number:
            # somebody gave it up, and what it was is forgotten: nobody is asked to take it
            self._at = self._at.model_copy(update={"phase": "stopped", "said": [*self._at.said, f"{now()} stopped: given up"]})
            self._versions.tell(self._at)
            self._settle_s = COME_S
            self._lead(0.0)
        elif self._at.phase == "canary":
            self._lead(self._ask.share, tuple(self._ask.keys), self._ask.shadow)
        elif self._ask.how == "rolling" or self._has_canary:
            self._lead(0.0)

    @property
    def _has_canary(self) -> bool:
        ask = self._asked()
        return bool(ask.for_s and (ask.share or ask.keys or ask.shadow))

    def _wanted(self, num_rows: int) -> int:
        """Replicas that a canary has."""
        return min(max(1, round(self._asked().share * num_rows)), num_rows - 1)

    def _lead(self, share: float, keys: tuple[str, ...] = (), shadow: float = 0.0) -> None:
        at = self._progress()
        self._desk_leads = True
        # gateways look at what they count while they may still give the requests to the old version
        judged = self._ask is not None and self._has_canary and share < 1 and bool(share or keys or shadow)
        allows = self._allows if judged else None
        self._desk.lead(Rollout(at.model, at.before, at.fingerprint, share, keys, shadow, at.number, allows))

    @property
    def _allows(self) -> Allowed:
        return Allowed(self._asked().error_rate, self._asked().disagree_rate)

    def _rows(self) -> list[Replica]:
        return [row for row in self._desk.rows(self._asked().model) if row.state != "draining"]

    def _fresh(self) -> list[Replica]:
        """Replicas with the new version that were proved, and stand."""
        mine = [row for row in self._rows() if row.address.fingerprint == self._asked().fingerprint and _who(row) in self._proved]
        return [row for row in mine if row.state in ("ready", "spare")]

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


def _who(row: Replica) -> tuple[str, str, int]:
    """A replica, with its weights and its process."""
    return row.address.replica, row.address.fingerprint, row.address.port


def _prompt_alone(turn: Turn) -> Turn:
    return turn.model_copy(update={"greedy": [], "likely": []})


def _order_of(ask: Ask) -> WeightsOrder:
    proof = ask.proof
    probes = tuple((tuple(each.tokens), tuple(each.logprobs)) for each in proof.probes) if proof else ()
    return WeightsOrder(ask.uri, ask.fingerprint, probes, ask.how == "in_place", ask.lineage)
