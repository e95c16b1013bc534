"""Control: the one process that knows an endpoint's replicas, and tells gateways when something changed.

replicas --register, beat, unready--> Control (Directory, Guards, orders) --changes(version)--> gateways
raylm adapters, raylm update --orders, rollout--^                         --decisions--> raylm show

Its death stops no token: gateways go on with what they last saw, replicas enter themselves again, orders lie in a file.
"""

from __future__ import annotations

import asyncio
import logging
import time
from collections import OrderedDict, deque
from typing import Any, NamedTuple

from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError, StorageError
from raylm.core.storage import Folder
from raylm.serve.directory import (
    BEAT_S,
    CLOSED,
    AdapterOrder,
    Address,
    Directory,
    Load,
    Orders,
    Replica,
    Spares,
    State,
    View,
    WeightsOrder,
)
from raylm.serve.gateway.settings import GatewaySettings
from raylm.serve.guards.guard import Admission, Guards, Visit
from raylm.serve.lifelines import Lifelines
from raylm.serve.updates.desk import Prove
from raylm.serve.updates.history import Versions
from raylm.serve.updates.proving import prove
from raylm.serve.updates.rollout import Told, together
from raylm.serve.updates.runner import Runner

GRACE_S = 4 * BEAT_S
"""Seconds after its start in which gateways that have a view keep it: replicas have not all come again."""
EXPIRE_S = 0.25
TURN_S = 0.5
"""Seconds between two steps of an update."""
NODES_S = 2.0
"""Seconds between two looks for machines that have no gateway."""
NUM_DECISIONS = 2000
NUM_FINISHED = 20_000
"""Requests of which is known that they were counted."""


class ControlSettings(NamedTuple):
    """What Control needs to know of an endpoint."""

    orders: dict[str, Orders]
    """How the replicas of each model should be, by the job file."""
    orders_uri: str = ""
    """Of the file that keeps what was ordered since; "" where nothing is kept."""
    spares: dict[str, Spares] = {}
    """Replicas of each model that stand ready and are asked only when another is lost."""
    guards: tuple[Any, ...] = ()
    """Cards; empty where the gateway asks them itself."""
    counted_uri: str = ""
    """Of the file with what guards counted."""
    versions_uri: str = ""
    """Of the history of versions; "" where nothing is updated."""
    began: dict[str, tuple[str, str]] = {}
    """Fingerprint and URI of the weights that each model begins with, by the job file."""
    gateways: GatewaySettings | None = None
    """A gateway on every machine; None where the stage itself starts the only one."""


class Control:
    """Runs in one process, on one event loop; each method is a remote one.

    Args:
        models: handles of the models' deployments, which Serve starts for they stand here.
    """

    def __init__(self, settings: ControlSettings, *models: Any, proved: Prove = prove) -> None:
        self._orders_folder, _, self._orders_file = settings.orders_uri.rpartition("/")
        self._models = tuple(settings.orders)
        # versions of an earlier process are all smaller
        self._directory = Directory({**settings.orders, **self._kept()}, settings.spares, version=int(time.time() * 1000))
        self._guards = Guards(list(settings.guards), settings.counted_uri) if settings.guards else None
        self._changed, self._began, self._keeping = asyncio.Event(), time.monotonic(), asyncio.Lock()
        self._decisions: deque[dict[str, Any]] = deque(maxlen=NUM_DECISIONS)
        self._held: dict[str, tuple[float, dict[str, int]]] = {}
        self._expiring: asyncio.Task[None] | None = None
        self._standing: asyncio.Task[None] | None = None
        self._told: dict[str, Told] = {}
        self._runner: Runner | None = None
        self._turning: asyncio.Task[None] | None = None
        if settings.versions_uri:
            # what a Control before this one began: before anybody is told who stands
            self._runner = Runner(self, Versions.at(settings.versions_uri), proved, settings.began)
        self._gateways = settings.gateways
        self._finished: OrderedDict[str, None] = OrderedDict()
        self._lifelines = Lifelines(self._closed, self._open_again)

    # of replicas

    async def register(self, address: Address, state: State = "ready") -> Orders:
        """A replica has started, or has other weights or adapters than before."""
        self._watch()
        self._directory.register(address, state, time.monotonic())
        self._tell()
        self._follow()
        return self._turned(address, self._directory.orders(address.model))

    async def beat(self, replica: str, load: Load) -> Orders | None:
        """A replica lives; None tells it to register."""
        self._watch()
        orders = self._directory.beat(replica, load, time.monotonic())
        self._tell()
        return self._turned(self._directory.row(replica).address, orders) if orders else None

    async def exchanged(self, replica: str, fingerprint: str, refused: str, figures: dict[str, Any]) -> None:
        """It took the weights that it was ordered, or says why it did not."""
        if self._runner:
            self._runner.exchanged(replica, fingerprint, refused, figures)

    async def ready(self, replica: str) -> None:
        """It may be asked again."""
        self._turn(replica, "ready")

    async def unready(self, replica: str, why: str) -> None:
        """It must not be asked from now on; gateways hear of it at once."""
        self._turn(replica, "unready", why)

    async def drain(self, replica: str) -> None:
        """It finishes what it has, and gets nothing more."""
        self._turn(replica, "draining")

    async def leave(self, replica: str) -> None:
        """It has ended."""
        self._directory.leave(replica)
        self._tell()
        self._follow()

    # of gateways

    async def changes(self, version: int, timeout_s: float, gateway: str = "", held: dict[str, int] | None = None) -> View | None:
        """The table as soon as it is another than `version`, or after `timeout_s`, for the loads in it.

        Args:
            version: of the view that the caller has; 0 for none.
            gateway: name of the caller, with
            held: the requests that wait in it for each model.

        Returns:
            None: too little is known yet; keep what you have.
        """
        self._watch()
        if gateway:
            self._held[gateway] = (time.monotonic(), dict(held or {}))
        try:
            async with asyncio.timeout(timeout_s):
                while self._directory.version == version:
                    await self._changed.wait()
        except TimeoutError:
            pass
        if version and time.monotonic() - self._began < GRACE_S:
            await asyncio.sleep(min(BEAT_S, timeout_s))
            return None
        return self._directory.view()

    async def tally(self, gateway: str, told: Told) -> None:
        """What a gateway counted of the versions of an update, since that began or since its own start."""
        self._told[gateway] = told
        rollout = self._directory.rollout
        if told.stop and rollout is not None and rollout.number == told.number and rollout != rollout.held_back():
            # what one gateway found no other has to find too; the update itself ends with its next step
            self.lead(rollout.held_back())

    async def view(self) -> View:
        """The table as it is."""
        return self._directory.view()

    async def held(self, model: str) -> int:
        """Requests for `model` that wait in gateways."""
        now = time.monotonic()
        return sum(held.get(model, 0) for seen, held in self._held.values() if now - seen < 3)

    async def admit(self, visit: Visit) -> Admission:
        """What the endpoint's guards say of a request."""
        return await self._guards.admit(visit) if self._guards else Admission(None)

    async def finish(self, visit: Visit, tokens: int) -> None:
        """An admitted request has ended; told again where the gateway did not hear that this was heard."""
        if self._guards and visit.number not in self._finished:
            if visit.number:
                self._finished[visit.number] = None
            while len(self._finished) > NUM_FINISHED:
                self._finished.popitem(last=False)
            await self._guards.finish(visit, tokens)

    # of operators

    async def adapters(self, model: str) -> tuple[AdapterOrder, ...]:
        """LoRA adapters that replicas of `model` should have."""
        return self._directory.orders(self._known(model)).adapters

    async def load_adapter(self, model: str, name: str, uri: str) -> None:
        """Replicas of `model` shall have the adapter in `uri`, under `name`. Raises ConfigError where the name is taken."""
        orders = self._directory.orders(self._known(model))
        taken = {*self._models, *(each.name for other in self._models for each in self._directory.orders(other).adapters)}
        if name in taken:
            raise ConfigError(
                f"a model or adapter is called {name!r} already", next="take another name, or unload that one first"
            )
        await self._order(model, orders._replace(adapters=(*orders.adapters, AdapterOrder(name, uri))))

    async def unload_adapter(self, model: str, name: str) -> None:
        """Replicas of `model` shall drop the adapter `name`. Raises ConfigError where there is none."""
        orders = self._directory.orders(self._known(model))
        left = tuple(each for each in orders.adapters if each.name != name)
        if len(left) == len(orders.adapters):
            known = [each.name for each in orders.adapters]
            raise ConfigError(f"{model} has no adapter {name!r}.{did_you_mean(name, known)}")
        await self._order(model, orders._replace(adapters=left))

    async def order_weights(self, model: str, weights: WeightsOrder | None) -> None:
        """Replicas of `model` shall answer with these weights."""
        await self._order(model, self._directory.orders(self._known(model))._replace(weights=weights))

    async def orders(self, model: str) -> Orders:
        """How replicas of `model` should be."""
        return self._directory.orders(self._known(model))

    async def set_rollout(self, rollout: Any) -> None:
        """Gateways route by this rollout from now on; None ends it."""
        self.lead(rollout)

    # of updates, see `raylm.serve.updates.desk`

    def rows(self, model: str) -> list[Replica]:
        """Replicas of a model."""
        return [row for row in self._directory.view().replicas if row.address.model == model]

    def lead(self, rollout: Any) -> None:
        """Gateways route by this rollout from now on; None ends it."""
        self._directory.rollout = rollout
        self._directory.changed()
        self._tell()

    def ordered(self, model: str) -> Orders:
        """How replicas of a model should be."""
        return self._directory.orders(model)

    def told(self, number: str) -> Told:
        """What gateways counted since the update `number` began."""
        return together(each for each in self._told.values() if each.number == number)

    async def decided(self, entry: dict[str, Any]) -> None:
        """Keep why something was done: a scaling, an update, an abort."""
        self._decisions.append({"time": time.time(), **entry})

    async def decisions(self, n: int = 100) -> list[dict[str, Any]]:
        """The last `n` of them, the newest last."""
        return list(self._decisions)[-n:]

    async def check_health(self) -> None:
        """For Serve: this event loop turns."""

    def _turned(self, address: Address, orders: Orders) -> Orders:
        """What one replica is ordered while an update is under way."""
        if self._runner is None:
            return orders
        return self._runner.order_for(address.model, address.replica, address.fingerprint, orders)

    def _turn(self, replica: str, state: State, why: str = "") -> None:
        self._directory.turn(replica, state, time.monotonic(), why)
        self._tell()

    def _follow(self) -> None:
        self._lifelines.follow(row.address for row in self._directory.view().replicas)

    def _closed(self, address: Address) -> None:
        """Its server ended: nobody waits for the silence of its replica."""
        if self._directory.close(address):
            logging.getLogger("ray.serve").warning("%s %s", address.replica, CLOSED)
            self._tell()

    def _open_again(self, address: Address) -> None:
        if self._directory.open_again(address, time.monotonic()):
            self._tell()

    def _tell(self) -> None:
        self._changed.set()
        self._changed.clear()

    def _watch(self) -> None:
        """Strike off who is silent, from the first call on."""
        if self._expiring is None or self._expiring.done():
            self._expiring = asyncio.ensure_future(self._expire())
        if self._gateways is not None and (self._standing is None or self._standing.done()):
            self._standing = asyncio.ensure_future(self._stand(self._gateways))
        if self._runner and (self._turning is None or self._turning.done()):
            self._turning = asyncio.ensure_future(self._turn_updates(self._runner))

    async def _stand(self, gateways: GatewaySettings) -> None:
        """A gateway on every machine, those that come later too."""
        from raylm.serve.gateway import nodes

        while True:
            try:
                await asyncio.to_thread(nodes.keep_on_every, gateways)
            except (RuntimeError, ValueError, OSError) as cause:
                # Ray's own state does not answer just now, or an actor of this name is ending
                logging.getLogger("ray.serve").error("gateways are not looked after: %s", cause)
            await asyncio.sleep(NODES_S)

    async def _expire(self) -> None:
        while True:
            await asyncio.sleep(EXPIRE_S)
            before = self._directory.version
            self._directory.expire(time.monotonic())
            if self._directory.version != before:
                self._tell()
                self._follow()

    async def _turn_updates(self, runner: Runner) -> None:
        while True:
            await asyncio.sleep(TURN_S)
            await runner.turn()

    def _known(self, model: str) -> str:
        if model not in self._models:
            raise ConfigError(f"this endpoint serves no model {model!r}.{did_you_mean(model, self._models)}")
        return model

    async def _order(self, model: str, orders: Orders) -> None:
        self._directory.order(model, orders)
        if not self._orders_file:
            return
        # one after the other: what is written last is what was ordered last
        async with self._keeping:
            kept = {name: _written(self._directory.orders(name)) for name in self._models}
            try:
                await asyncio.to_thread(Folder(self._orders_folder).make().write_json, self._orders_file, kept)
            except StorageError as cause:
                # replicas that stand hear of it all the same
                logging.getLogger("ray.serve").error("what was ordered cannot be kept: %s", cause)

    def _kept(self) -> dict[str, Orders]:
        """What an earlier process was ordered."""
        if not self._orders_file or not Folder(self._orders_folder).exists(self._orders_file):
            return {}
        kept = Folder(self._orders_folder).read_json(self._orders_file)
        return {name: _read(orders) for name, orders in kept.items() if name in self._models}


def _written(orders: Orders) -> dict[str, Any]:
    return {"adapters": [list(each) for each in orders.adapters], "weights": list(orders.weights) if orders.weights else None}


def _read(kept: dict[str, Any]) -> Orders:
    weights = None
    if kept["weights"]:
        uri, fingerprint, probes, in_place, lineage = kept["weights"]
        weights = WeightsOrder(
            uri, fingerprint, tuple((tuple(tokens), tuple(said)) for tokens, said in probes), in_place, lineage
        )
    return Orders(tuple(AdapterOrder(*each) for each in kept["adapters"]), weights)
