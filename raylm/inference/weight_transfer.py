"""Weights from the trainer's first rank to generators, bucket by bucket: two phases, many transports.

engine.stream() -> Lane -> bucket --> shared memory (this machine) --> every generator takes it
                                  \\-> object store (other machines) -/
all came: finish(version, digest, last bucket) -> each compares, loads what lies aside, and commits

What a generator cannot finish is never half in use: it goes on with the version that it had as long as nothing was loaded, and
refuses to generate where something was.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable
from typing import Any, Literal, NamedTuple
from uuid import uuid4

from raylm.inference.broadcast import Broadcast
from raylm.inference.buckets import Bucket, Packer, WeightsDigest, as_array
from raylm.inference.changes import CHANGES, changes
from raylm.inference.shared_memory import SharedMemory

BUCKET_BYTES = 64 << 20


class Probe(NamedTuple):
    """A sequence of tokens, and what the trainer says of it with the weights that were sent."""

    tokens: list[int]
    logprobs: list[float]
    """Of each token given those before it, from the second one on: the plain softmax."""


class Sent(NamedTuple):
    """What became of a transfer."""

    digest: str
    lost: dict[int, str]
    """Generators that were lost on the way, by place, and how."""
    sent_bytes: int = 0
    """Bytes that left for the generator that got most."""
    seconds: float = 0.0
    probe: tuple[Probe, ...] = ()
    """What the generators may be asked, to see that they compute with these weights."""


class Offer(NamedTuple):
    """What a sender tells generators before the weights of a transfer."""

    path: str
    """Its shared memory, labelled with the name of the transfer."""
    keep: bool = False
    """Keep a copy of the weights: the next transfer may send only what changed in them."""
    base: str | None = None
    """Digest of the weights in which changes are known: who keeps others gets all of them."""
    layers: Any = None
    """peft's layers without memory, by name: what comes is a base and its adapters, which are merged there."""


class Held(NamedTuple):
    """What a generator answers to an `Offer`."""

    shares: bool
    """It can read the sender's memory."""
    digest: str | None = None
    """Of the copy of the weights that it keeps."""


class Lane:
    """The buckets for generators that all get the same ones.

    Args:
        num_aside: buckets that stay in memory until the end, so that generators load them all at once; with more than that, all
            are loaded as they come, and their memory is used again.
    """

    def __init__(self, calls: Broadcast, transfer: str, held: dict[int, Held], memory: SharedMemory, size: int, num_aside: int):
        self._calls, self._transfer, self._held, self._memory, self._size = calls, transfer, held, memory, size
        self._num_aside, self._sent = num_aside, 0
        self._packer = Packer(size, lambda number: memory.slot(self._place(number), size))
        self.sent_bytes = 0

    def add(self, name: str, array: Any, digest: WeightsDigest | None = None) -> None:
        """Send a tensor, or begin to.

        Args:
            digest: counts it in on the way.
        """
        for bucket in self._packer.add(name, array, digest):
            self._calls.ask("take_weights", {at: (one, self._transfer) for at, one in self._laid(bucket).items()})

    def rest(self) -> dict[int, Any]:
        """The bucket that is not full, as each generator gets it, by place; {} where there is none."""
        return {at: one for bucket in self._packer.rest() for at, one in self._laid(bucket).items()}

    def _place(self, number: int) -> int:
        """Where bucket `number` lies: two in turn where none stays, or those that stay in turn: they are two or more."""
        return number % max(2, self._num_aside) * self._size

    def _laid(self, bucket: Bucket) -> dict[int, Any]:
        """A bucket as each generator gets it, once all took the one before: one is taken while the next one is filled."""
        import ray

        self._calls.wait(self._held)
        at, size, aside = self._place(self._sent), len(bucket.data), self._sent + 1 < self._num_aside
        self._sent, self.sent_bytes = self._sent + 1, self.sent_bytes + size
        near = Bucket(None, bucket.table, self._memory.path, at, size, aside)
        places = self._calls.places(self._held)
        far = None
        if not all(self._held[place].shares for place in places):
            far = ray.put(bucket._replace(aside=aside))
        return {at: near if self._held[at].shares else far for at in places}


class Sender:
    """Brings weights to generators, again and again; kept between transfers, with what it knows of the last one.

    Args:
        bucket_bytes: most bytes of a bucket.
        aside_bytes: weights up to this size stay in memory until all of them came, while generation goes on, and are loaded at
            once; larger ones are loaded as they come. The first transfer is: its size is not known.
        only: send to generators that have the last transfer only what changed since then: the `values`, or whole `tensors`.
    """

    def __init__(
        self, bucket_bytes: int = BUCKET_BYTES, aside_bytes: int = 0, only: Literal["", "values", "tensors"] = ""
    ) -> None:
        self._bucket_bytes, self._aside_bytes, self._only = bucket_bytes, aside_bytes, only
        self._memory, self._changes, self._total = SharedMemory(), SharedMemory(), None
        self._base: dict[str, Any] = {}
        """Values of the last transfer, where changes are sought in them."""
        self._digest = WeightsDigest()
        self._base_digest: str | None = None
        """Of the last transfer that came to its end: a generator that says this digest has what `_base` and `_digest` say."""

    def send(
        self,
        named: Iterable[tuple[str, Any]],
        generators: list[Any],
        version: int,
        deadline_s: float,
        *,
        names: list[str] | None = None,
        tick: Callable[[], None] = lambda: None,
        layers: Any = None,
    ) -> Sent:
        """See `send_weights`.

        Args:
            layers: peft's layers without memory, by name (`adapted_layers`): `named` are a model's own tensors and its adapters'
                (`only = "tensors"` then sends the adapters alone), and generators merge them.
        """
        began, calls, transfer = time.perf_counter(), Broadcast(generators, deadline_s, tick), uuid4().hex
        self._memory.label(transfer)
        offer = Offer(self._memory.path, bool(self._only), self._base_digest, layers)
        calls.ask("begin_weights", dict.fromkeys(range(len(generators)), (transfer, names, offer)))
        held = {at: answer or Held(False) for at, answer in calls.wait().items()}
        whole, changed = self._lanes(calls, transfer, held)
        # from here to the end the base is neither the one nor the other
        self._base_digest, before = None, self._digest
        self._digest, total = WeightsDigest(), 0
        for name, one in named:
            array = as_array(one)
            total += array.nbytes
            if whole:
                whole.add(name, array, self._digest)
            else:
                self._digest.add(name, array)
            if self._only == "values":
                self._advance(name, array, changed)
            elif changed and self._digest.part(name) != before.part(name):
                changed.add(name, array)
        last = {at: bucket for lane in (whole, changed) if lane for at, bucket in lane.rest().items()}
        calls.wait()
        digest = self._digest.hexdigest()
        # small weights are one bucket: it comes with the word that it was the last one
        calls.ask("finish_weights", {at: (version, digest, transfer, last.get(at)) for at in calls.places()})
        calls.wait()
        self._total, self._base_digest = total, digest
        most = max((lane.sent_bytes for lane in (whole, changed) if lane), default=0)
        return Sent(digest, calls.lost, most, time.perf_counter() - began)

    def _lanes(self, calls: Broadcast, transfer: str, held: dict[int, Held]) -> tuple[Lane | None, Lane | None]:
        """For the generators that get all weights, and for those that get what changed."""
        num_aside = 0
        if self._total is not None and self._total <= self._aside_bytes and not self._only:
            # a bucket may be half empty: what does not fit begins the next one
            num_aside = 2 + 2 * -(-self._total // self._bucket_bytes)
        known = self._base_digest if self._only else None
        near = {at: one for at, one in held.items() if known and one.digest == known}
        rest = {at: one for at, one in held.items() if at not in near}

        def lane(held: dict[int, Held], memory: SharedMemory) -> Lane | None:
            return Lane(calls, transfer, held, memory, self._bucket_bytes, num_aside) if held else None

        return lane(rest, self._memory), lane(near, self._changes)

    def _advance(self, name: str, array: Any, lane: Lane | None) -> None:
        """Take a tensor into the base, and send to generators that have the base what that changed."""
        had = self._base.get(name)
        if had is None or had.shape != array.shape or had.dtype != array.dtype:
            self._base[name], found = array.copy(), None
        else:
            found = changes(had, array)
        if lane is None:
            return
        if found is None:
            lane.add(name, array)
        elif len(found):
            lane.add(f"{CHANGES}{name}", found)


def send_weights(
    named: Iterable[tuple[str, Any]],
    generators: list[Any],
    version: int,
    deadline_s: float,
    *,
    bucket_bytes: int = BUCKET_BYTES,
    names: list[str] | None = None,
    tick: Callable[[], None] = lambda: None,
    sender: Sender | None = None,
) -> Sent:
    """Replace the weights of all `generators`, from the process that has them. One that is lost does not keep the others.

    Args:
        named: names (Hugging Face's) and tensors or arrays, asked for one by one.
        generators: handles of Generator actors.
        deadline_s: most seconds for one bucket.
        names: of all weights, where they are known beforehand: then a set that lacks some changes nothing.
        tick: called each second while this waits.
        sender: what is kept from one transfer to the next; without it, all weights are sent and loaded as they come.

    Raises:
        RaylmError: what a generator raised. Those that the weights did not reach whole refuse to generate from now on.
    """
    sender = sender or Sender(bucket_bytes)
    return sender.send(named, generators, version, deadline_s, names=names, tick=tick)
