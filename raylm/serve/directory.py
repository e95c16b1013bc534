"""Who answers for which model: the table that replicas enter themselves into and gateways route by. Knows no Ray.

replica --register, beat, unready, drain--> Directory (in Control) --view, when it changed--> gateways
        <------------ Orders -------------
"""

from __future__ import annotations

from typing import Any, Literal, NamedTuple

State = Literal["ready", "unready", "draining", "spare"]
BEAT_S = 0.5
"""Seconds between two beats of a replica."""
SILENT_S = 2.0
"""Seconds without a beat after which a replica is asked no more."""
FORGET_S = 60.0
"""Seconds without a beat after which it is struck off."""


class Address(NamedTuple):
    """A replica as gateways reach it. `secret` is of this start alone and lies in memory only: print none of these."""

    replica: str
    """Of this start of its process, unique."""
    model: str
    """Name of the model it answers for."""
    host: str
    port: int
    secret: str
    node: str = ""
    """Ray's id of its machine."""
    fingerprint: str = ""
    """Of the weights it answers with now."""
    dtype: str = ""
    max_len: int = 0
    adapters: tuple[str, ...] = ()
    """Names of the LoRA adapters that it has loaded."""
    routes: tuple[str, ...] = ()
    """Paths that it serves."""
    lineage: dict[str, Any] = {}
    """Job, report and base model of the weights, for /v1/models."""

    def __repr__(self) -> str:
        return f"Address({self.replica} of {self.model} at {self.host}:{self.port})"


class Load(NamedTuple):
    """How busy a replica is. What its engine has not told yet is None: unknown is not zero."""

    running: int | None = None
    """Requests that its engine works on."""
    waiting: int | None = None
    """Requests that wait in its engine."""
    queued_tokens: int | None = None
    """Tokens of prompts that have not been read yet."""
    kv_use: float | None = None
    """Part of the key-value cache that is taken, 0 to 1."""
    ttft_s: float | None = None
    """Seconds to the first token, of late."""
    tokens_s: float | None = None
    """Tokens per second that it makes, of late."""
    read_tokens: int | None = None
    """Tokens of prompts that its engine has read since its start."""
    read_prompts: int | None = None
    """Prompts that it has read since then."""


class AdapterOrder(NamedTuple):
    """An adapter that a replica should have."""

    name: str
    uri: str


class WeightsOrder(NamedTuple):
    """Weights that a replica should answer with."""

    uri: str
    fingerprint: str
    probes: tuple[tuple[tuple[int, ...], tuple[float, ...]], ...] = ()
    """Sequences of tokens, and what transformers says of each token from the second one on: who takes the weights must say it
    too before anybody gets an answer."""
    in_place: bool = False
    """Take them within the engine that stands; else in a new process, while the old one finishes what it has."""
    lineage: dict[str, Any] = {}
    """Where they come from, for /v1/models."""


class Orders(NamedTuple):
    """How a replica should be; it brings itself to it."""

    adapters: tuple[AdapterOrder, ...] = ()
    weights: WeightsOrder | None = None
    """None: those that it began with."""
    spare: bool = False
    """Loaded, and not asked. (Who of several replicas is a spare, the directory decides, see `Spares`.)"""


class Replica(NamedTuple):
    """A row of the table."""

    address: Address
    state: State
    load: Load = Load()
    beat: float = 0.0
    """When it was last heard (the directory's clock)."""
    why: str = ""
    """Why it is not ready."""


class Spares(NamedTuple):
    """Replicas of a model that stand ready, and are asked from the moment on in which another is lost."""

    count: int = 0
    least: int = 1
    """Replicas that answer before one waits as a spare."""


class View(NamedTuple):
    """The table at one moment, as gateways route by it."""

    version: int
    replicas: tuple[Replica, ...] = ()
    rollout: Any = None
    """What is under way of `raylm.serve.updates.rollout`; None where nothing is."""

    def ready(self, model: str) -> list[Replica]:
        """Those that may be asked for `model`, a model's name or an adapter's."""
        return [each for each in self.replicas if each.state == "ready" and model in (each.address.model, *each.address.adapters)]

    def models(self) -> dict[str, Address]:
        """Every name that somebody answers to now, with one address that does."""
        found: dict[str, Address] = {}
        for each in self.replicas:
            if each.state == "ready":
                for name in (each.address.model, *each.address.adapters):
                    found.setdefault(name, each.address)
        return found


class Directory:
    """The table. Times are of one clock that only goes forward, handed in by who calls.

    Args:
        orders: how the replicas of each model should be; a model that is not in it has none.
        spares: of each model, how many replicas wait as spares once others answer.
        version: where counting begins.
    """

    def __init__(
        self, orders: dict[str, Orders] | None = None, spares: dict[str, Spares] | None = None, version: int = 0
    ) -> None:
        self._orders, self._spares = dict(orders or {}), dict(spares or {})
        self._rows: dict[str, Replica] = {}
        self._version = version
        self.rollout: Any = None

    @property
    def version(self) -> int:
        """Grows with each change that gateways must hear of; loads alone are none."""
        return self._version

    def register(self, address: Address, state: State, now: float) -> None:
        """A replica has started, has other weights or other adapters, or comes again after Control was lost."""
        old = self._rows.get(address.replica)
        row = Replica(address, "unready", old.load if old else Load(), now)
        # what it is already it stays: it comes again with other weights, and is neither lost nor found
        self._rows[address.replica] = row._replace(state=old.state if old else "unready")
        self._set(address.replica, state, "", now)
        self._version += 1

    def beat(self, replica: str, load: Load, now: float) -> Orders | None:
        """A replica lives. None: it is not known here and must register."""
        row = self._rows.get(replica)
        if row is None:
            return None
        self._rows[replica] = row._replace(load=load, beat=now)
        if row.state == "unready" and row.why == SILENT:
            # it was slow, not dead: it has not said that it is not ready
            self._set(replica, "ready", "", now)
        return self._orders.get(row.address.model, Orders())

    def row(self, replica: str) -> Replica:
        """Of a replica that is known."""
        return self._rows[replica]

    def turn(self, replica: str, state: State, now: float, why: str = "") -> None:
        """A replica is from now on in `state`; nothing for one that is not known."""
        if replica in self._rows:
            self._set(replica, state, why, now)

    def leave(self, replica: str) -> None:
        """A replica has ended."""
        if (row := self._rows.pop(replica, None)) is not None:
            self._version += 1
            if row.state == "ready":
                self._promote(row)

    def expire(self, now: float) -> None:
        """Those that have not been heard for `SILENT_S` are asked no more, those for `FORGET_S` are struck off."""
        for name, row in list(self._rows.items()):
            if now - row.beat > FORGET_S:
                self.leave(name)
            elif now - row.beat > SILENT_S and row.state in ("ready", "spare"):
                self._set(name, "unready", SILENT, row.beat)

    def close(self, address: Address) -> bool:
        """The server at this address accepts nobody; whether that is news."""
        row = self._rows.get(address.replica)
        if row is None or _place(row.address) != _place(address) or row.state not in ("ready", "spare"):
            return False
        # a replica that lives says so by its beats all the same
        self._set(address.replica, "unready", CLOSED, row.beat)
        return True

    def open_again(self, address: Address, now: float) -> bool:
        """It accepts again; whether that is news."""
        row = self._rows.get(address.replica)
        if row is None or _place(row.address) != _place(address) or (row.state, row.why) != ("unready", CLOSED):
            return False
        self._set(address.replica, "ready", "", now)
        return True

    def _set(self, replica: str, state: State, why: str, now: float) -> None:
        """The one place in which a state changes: who is too many becomes a spare, and who is lost is replaced by one."""
        row = self._rows[replica]
        if state == "ready" and row.state != "ready":
            others = [each.state for name, each in self._rows.items() if name != replica and self._akin(each, row)]
            wanted = self._spares.get(row.address.model, Spares())
            if others.count("spare") < wanted.count and others.count("ready") >= wanted.least:
                state = "spare"
        if (row.state, row.why) == (state, why):
            return
        self._rows[replica] = row._replace(state=state, why=why, beat=now)
        self._version += 1
        if row.state == "ready" and state != "ready":
            self._promote(row)

    def _promote(self, lost: Replica) -> None:
        """One was lost: a spare, where there is one, takes its place."""
        for name, row in self._rows.items():
            if row.state == "spare" and self._akin(row, lost):
                self._rows[name] = row._replace(state="ready")
                self._version += 1
                return

    def _akin(self, one: Replica, other: Replica) -> bool:
        """Whether one may stand in for the other: of one model, and of one version while two stand beside each other."""
        versions_differ = self.rollout is not None and one.address.fingerprint != other.address.fingerprint
        return one.address.model == other.address.model and not versions_differ

    def order(self, model: str, orders: Orders) -> None:
        """How the replicas of `model` should be from now on."""
        self._orders[model] = orders

    def orders(self, model: str) -> Orders:
        """How the replicas of `model` should be."""
        return self._orders.get(model, Orders())

    def changed(self) -> None:
        """Something else in the view is new (the rollout)."""
        self._version += 1

    def view(self) -> View:
        """The table as it is."""
        return View(self._version, tuple(self._rows.values()), self.rollout)


SILENT = f"not heard for {SILENT_S:g} s"
CLOSED = "its server ended"


def _place(address: Address) -> tuple[str, int]:
    return address.host, address.port
