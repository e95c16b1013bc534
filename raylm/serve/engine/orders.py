"""Brings an engine to what Control orders: its adapters, and weights that come in place of those it has."""

from __future__ import annotations

import asyncio
import logging
from typing import Any

from raylm.core.errors import RaylmError, StageError
from raylm.inference.probe import allowed, apart
from raylm.inference.weight_swap import Swap, Weights, WeightsLost
from raylm.inference.weight_transfer import Probe
from raylm.model.load import on_this_machine
from raylm.serve.directory import Orders, WeightsOrder
from raylm.serve.engine.link import Exchanged, Lost


async def carry_out(server: Any, orders: Orders) -> None:
    """Make `server` (a `Server` of `raylm.serve.engine.server`) as `orders` say, and `server.tell()` when something changed.

    Called one at a time: before it is ready, and with each new order. What could not be done is in the log, and missing in what
    the replica says of itself.
    """
    log, weights, changed = logging.getLogger("raylm.serve"), orders.weights, False
    if weights is not None and weights.in_place and weights.fingerprint != server.fingerprint:
        try:
            await _swap(server, weights)
            changed = True
        except WeightsLost as lost:
            server.link.say(Lost(str(lost), ends=False))
            return
        except RaylmError as refused:
            log.error("the weights %s are not taken: %s", weights.fingerprint, refused)
            server.link.say(Exchanged(weights.fingerprint, refused.what))
    if server.adapters is not None and await server.adapters.bring(orders.adapters):
        for name, why in server.adapters.failed.items():
            log.error("the adapter %s is not loaded: %s", name, why)
        changed = True
    if changed:
        server.tell()


async def prove(server: Any, weights: WeightsOrder | None) -> None:
    """Raises StageError where an engine does not say what was computed of the weights that it began with."""
    if weights is None or not weights.probes:
        return
    said = await Swap(server.engine, server.hold).said([list(tokens) for tokens, _ in weights.probes])
    nats, most = apart([one.logprobs for one in said], _probes(weights)), allowed(server.dtype, None)
    if not nats <= most:
        raise StageError(
            f"the engine does not say what this checkpoint says: log-probabilities differ by {nats:.3g} on average, {most:g} are "
            "allowed",
            where=weights.uri,
        )


async def _swap(server: Any, weights: WeightsOrder) -> None:
    """Other weights within the engine that stands; what is under way stands still for a moment, and goes on with them."""
    if server.adapters is not None:
        raise StageError(
            "this engine has room for LoRA adapters, which are trained beside the weights that it has",
            where=weights.uri,
            next="update without --in-place",
        )
    # what lies in a bucket is fetched beside the answers, which go on meanwhile
    fetched = await asyncio.to_thread(on_this_machine, weights.uri)
    now, to = Weights(server.model, server.fingerprint), Weights(fetched, weights.fingerprint)
    server.paused = True
    try:
        done = await Swap(server.engine, server.hold).run(now, to, _probes(weights), allowed(server.dtype, None))
    finally:
        server.paused = False
    server.door.mark(weights.fingerprint, done.under_way)
    server.model, server.uri, server.fingerprint, server.taken = to.folder, weights.uri, weights.fingerprint, weights
    figures = {"held_s": done.held_s, "beside_s": done.beside_s, "nats": done.nats, "under_way": len(done.under_way)}
    server.link.say(Exchanged(weights.fingerprint, "", {name: round(value, 9) for name, value in figures.items()}))
    logging.getLogger("raylm.serve").warning(
        "weights %s: beside the engine in %.2f s, answers held for %.3f s, %.3g nats apart",
        *(done.label, done.beside_s, done.held_s, done.nats),
    )


def _probes(weights: WeightsOrder) -> list[Probe]:
    return [Probe(list(tokens), list(said)) for tokens, said in weights.probes]
