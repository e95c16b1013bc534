"""Weights on their way into one engine: laid aside or loaded as they come, compared, loaded, committed.

begin --> take, take, ... --> finish      nothing of the engine changes before the first load; what was loaded in part
          aside | load | kept             does not generate
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Any

from raylm.core.errors import ArtifactError
from raylm.inference.buckets import Bucket, Piece, WeightsDigest, pack
from raylm.inference.kept import Kept
from raylm.inference.shared_memory import HEADER, Maps, SharedMemory, shares
from raylm.inference.weight_transfer import BUCKET_BYTES, Held, Offer

Lying = tuple[str, int, list[Piece]]
"""Path, first byte and table of a bucket that workers can read."""


class Intake:
    """The transfers into one engine, one after the other.

    Args:
        workers: calls a method of every worker of the engine.
        stop: lets the engine stand still, and generate no more until weights were committed.
    """

    def __init__(self, workers: Callable[..., Awaitable[list[Any]]], stop: Callable[[], Awaitable[None]]) -> None:
        self._workers, self._stop = workers, stop
        self._one = asyncio.Lock()
        """Held while anything comes: a bucket of a transfer that broke off may still be loading when the next one begins."""
        self._transfer: str | None = None
        self._offer: Offer | None = None
        self._layers: Any = None
        self._maps, self._own = Maps(), SharedMemory()
        self._kept: Kept | None = None
        self._loads = False
        self._lying: list[Lying] = []
        self._names: set[str] = set()
        self._digest = WeightsDigest()

    async def begin(self, transfer: str, offer: Offer | None) -> Held:
        """A transfer begins; what came of an earlier one is dropped."""
        async with self._one:
            return self._begin(transfer, offer)

    def _begin(self, transfer: str, offer: Offer | None) -> Held:
        self._transfer, self._lying, self._names, self._digest = transfer, [], set(), WeightsDigest()
        self._loads = False
        self._offer = offer if offer is not None and shares(offer.path, transfer) else None
        self._layers = offer.layers if offer is not None else None
        if offer is None or not offer.keep:
            self._kept = None
        elif self._kept is None or self._kept.digest is None or self._kept.digest != offer.base:
            self._kept = Kept()
        if self._kept:
            self._kept.begin()
        return Held(self._offer is not None, self._kept.digest if self._kept else None)

    async def forget(self) -> None:
        """The engine gets weights in another way: no transfer is under way, and no copy is kept."""
        async with self._one:
            self._transfer, self._kept, self._lying = None, None, []

    async def close(self) -> None:
        """Give up the memory in which weights were laid aside."""
        await self.forget()
        self._own.close()

    def check(self, transfer: str) -> None:
        """Raises ArtifactError where `transfer` is not the one that began last."""
        if transfer != self._transfer:
            raise ArtifactError(
                f"weights of transfer {transfer} came, the one begun last is {self._transfer or 'none'}",
                where="generator.weights",
                next="send all of them again",
            )

    async def take(self, bucket: Bucket, transfer: str) -> None:
        """One bucket."""
        async with self._one:
            self.check(transfer)
            await self._take(bucket)

    async def _take(self, bucket: Bucket) -> None:
        self._names |= {piece[0] for piece in bucket.table}
        if self._kept:
            await asyncio.to_thread(self._keep, self._kept, bucket)
            return
        self._lying.append(await asyncio.to_thread(self._lie, bucket))
        if not bucket.aside:
            await self._load()

    async def finish(
        self, version: int, digest: str, transfer: str, check_names: Callable[[set[str]], None], last: Bucket | None = None
    ) -> None:
        """All buckets came: compare, and load what was not loaded yet.

        Args:
            last: the last bucket, where it was not taken before.

        Raises:
            ArtifactError: weights are missing, or are not those that were sent, or the transfer is not the one begun last.
        """
        async with self._one:
            self.check(transfer)
            if last is not None:
                await self._take(last)
            if self._kept:
                await self._finish_kept(self._kept, version, digest, check_names)
            else:
                await self._finish(version, digest, check_names)
            self._transfer = None

    async def _finish(self, version: int, digest: str, check_names: Callable[[set[str]], None]) -> None:
        check_names(self._names)
        if not self._loads:
            if (came := self._digest.hexdigest()) != digest:
                # nothing was loaded: the engine goes on with what it has
                raise not_what_was_sent(came, digest, version)
            await self._put()
            return
        await self._load()
        held = await self._workers("raylm_finish_weights")
        if set(held) != {digest}:
            raise not_what_was_sent(", ".join(sorted(set(held))), digest, version)

    async def _finish_kept(self, kept: Kept, version: int, digest: str, check_names: Callable[[set[str]], None]) -> None:
        """Compare the copy, and load what is in it; merged, where it is a base and its adapters."""
        if not await asyncio.to_thread(kept.finish, digest):
            raise not_what_was_sent(kept.held(), digest, version)
        layers = self._layers
        if not layers:
            check_names(kept.names())
            self._lying = [(kept.path, HEADER, kept.table)]
            await self._put()
            return
        merged, names = WeightsDigest(), set[str]()
        stream = pack(kept.merged(layers), BUCKET_BYTES, merged)
        while bucket := await asyncio.to_thread(next, stream, None):
            names |= {piece[0] for piece in bucket.table}
            self._lying = [await asyncio.to_thread(self._lie, bucket)]
            await self._load()
        check_names(names)
        held = await self._workers("raylm_finish_weights")
        if set(held) != {merged.hexdigest()}:
            raise not_what_was_sent(", ".join(sorted(set(held))), merged.hexdigest(), version)

    async def _put(self) -> None:
        """Load all that lies there, in one call: it is the whole set, and was compared."""
        await self._stop()
        self._loads = True
        await self._workers("raylm_put_weights", self._lying)
        self._check_memory()
        self._lying = []

    async def _load(self) -> None:
        """Load all that lies there, behind what was loaded before."""
        if not self._loads:
            await self._stop()
            await self._workers("raylm_begin_weights")
            self._loads = True
        for path, at, table in self._lying:
            await self._workers("raylm_take_weights", path, table, at)
        self._check_memory()
        self._lying = []

    def _lie(self, bucket: Bucket) -> Lying:
        """Where workers can read a bucket: in the sender's memory, or in that of this process."""
        if not bucket.path:
            # behind what lies there
            at = max((lying[1] - HEADER + _end(lying[2]) for lying in self._lying), default=0)
            at = -(-at // 64) * 64
            data = self._own.slot(at, len(bucket.data))
            data[:] = bucket.data
            lying: Lying = (self._own.path, at + HEADER, bucket.table)
        else:
            at = bucket.at + HEADER
            data = self._maps.of(bucket.path, at + bucket.size).view(at, bucket.size)
            lying = (bucket.path, at, bucket.table)
        if bucket.aside:
            self._digest.add_pieces(data, bucket.table)
        return lying

    def _keep(self, kept: Kept, bucket: Bucket) -> None:
        data = bucket.data
        if bucket.path:
            at = bucket.at + HEADER
            data = self._maps.of(bucket.path, at + bucket.size).view(at, bucket.size)
        kept.take(data, bucket.table)
        self._check_memory()

    def _check_memory(self) -> None:
        """Raises ArtifactError where the sender's memory is another transfer's by now: it took this generator for lost."""
        if self._offer and not shares(self._offer.path, str(self._transfer)):
            raise ArtifactError("the sender has begun another transfer while this one was loaded", where="generator.weights")


def not_what_was_sent(held: str, digest: str, version: int) -> ArtifactError:
    return ArtifactError(f"the generator holds weights {held}, the trainer sent {digest}", where=f"weights of version {version}")


def _end(table: list[Piece]) -> int:
    return max((piece[4] + piece[5] for piece in table), default=0)
