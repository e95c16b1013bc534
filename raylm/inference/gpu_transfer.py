"""Weights from GPU to GPU, by vLLM's own weight transfer: NCCL between GPUs, CUDA IPC within one.

first transfer, or other generators than last time --> buckets (`weight_transfer`), which need no group and outlive any death
the same generators again                          --> vLLM's trainer side, rank 0 --> vLLM's workers

vLLM computes no digest of what came: that all layers got new weights is known, and that they are the right ones by a probe.
"""

from __future__ import annotations

import pickle
import time
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from raylm.core.errors import StageError
from raylm.inference.broadcast import Broadcast
from raylm.inference.buckets import WeightsDigest, as_array
from raylm.inference.calls import GeneratorLost
from raylm.inference.weight_transfer import Sender, Sent

Described = tuple[str, Any, tuple[int, ...]]
"""Name, torch dtype and shape of a tensor."""


class Client:
    """The calls that vLLM's trainer side makes of an engine, made of several generators.

    Args:
        num_workers: of each generator: each is a rank of the group, behind the trainer's.
    """

    def __init__(self, num_workers: list[int]) -> None:
        self._num_workers = num_workers
        self.calls: Broadcast | None = None
        """Of the transfer that goes on."""

    def init_weight_transfer_engine(self, init_info: dict[str, Any]) -> None:
        """Let all of them join: vLLM says every engine the rank of the first one's first worker."""
        first, told = init_info.get("rank_offset"), {}
        for at, count in enumerate(self._num_workers):
            told[at] = ({**init_info, "rank_offset": first} if first is not None else init_info,)
            first = first + count if first is not None else None
        self._all("join_transfer", told)

    def start_weight_update(self) -> None:
        """Open the layers of all engines."""
        self._all("begin_transfer")

    def update_weights(self, update_info: Any) -> None:
        """Let all of them receive what `update_info` says."""
        # handles of GPU memory are no plain values: they pass through the engine as bytes
        self._all("take_transfer", dict.fromkeys(range(len(self._num_workers)), (pickle.dumps(update_info),)))

    def finish_weight_update(self, weight_version: str | None = None) -> None:
        """Close the layers. The version is committed apart."""
        self._all("close_transfer")

    def _all(self, method: str, args: dict[int, tuple[Any, ...]] | None = None) -> None:
        assert self.calls is not None
        self.calls.ask(method, args or dict.fromkeys(range(len(self._num_workers)), ()))
        self.calls.wait()
        if self.calls.lost:
            # a group of GPUs without one of them stands still
            at, how = next(iter(self.calls.lost.items()))
            raise GeneratorLost(f"generator {at} was lost in the middle of a transfer between GPUs: {how}")


class Source:
    """The trainer's weights as vLLM's trainer side reads them: described beforehand, then one by one, on this process's GPU."""

    def __init__(self, described: list[Described]) -> None:
        self.described = described
        self.stream: Iterator[tuple[str, Any]] = iter(())
        self.digest = WeightsDigest()

    def tensors(self) -> Iterator[tuple[str, Any]]:
        """Of the transfer that goes on."""
        for name, tensor in self.stream:
            self.digest.add(name, as_array(tensor))
            yield name, tensor.detach().cuda()


class GpuSender:
    """Brings weights to generators on GPUs.

    Args:
        connect: vLLM's trainer side, of client, source, number of workers and bytes that travel at a time.
    """

    def __init__(self, connect: Callable[[Client, Source, int, int], Any], bucket_bytes: int) -> None:
        self._connect, self._bucket_bytes = connect, bucket_bytes
        self._buckets = Sender(bucket_bytes)
        self._generators: list[Any] = []
        self._source, self._client, self._engine = Source([]), Client([]), None

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
        """See `send_weights`. Raises GeneratorLost where one is lost while GPUs exchange weights."""
        if generators != self._generators:
            self._close()
            self._source.described = []
            sent = self._buckets.send(self._described(named), generators, version, deadline_s, names=names, tick=tick)
            self._generators = [] if sent.lost else list(generators)
            return sent
        began, calls = time.perf_counter(), Broadcast(generators, deadline_s, tick)
        done = False
        try:
            self._transfer(named, calls, version)
            done = True
        finally:
            if not done:
                # the group is of no use any more: the next transfer goes by buckets
                self._generators = []
                self._close()
        return Sent(self._source.digest.hexdigest(), calls.lost, self._bytes(), time.perf_counter() - began)

    def _transfer(self, named: Iterable[tuple[str, Any]], calls: Broadcast, version: int) -> None:
        if self._engine is None:
            calls.ask("num_workers", dict.fromkeys(calls.places(), ()))
            found = calls.wait()
            self._client = Client([found.get(at, 0) for at in range(len(self._generators))])
            self._client.calls = calls
            largest = max(tensor_bytes(one) for one in self._source.described)
            size = max(self._bucket_bytes, largest)
            self._engine = self._connect(self._client, self._source, sum(found.values()), size)
        self._client.calls = calls
        self._source.stream, self._source.digest = iter(named), WeightsDigest()
        self._engine.send_weights()
        if next(self._source.stream, None) is not None:
            raise StageError("the trainer has more weights than at the last transfer", where="weight transfer")
        calls.ask("commit_transfer", dict.fromkeys(calls.places(), (version,)))
        calls.wait()

    def _described(self, named: Iterable[tuple[str, Any]]) -> Iterator[tuple[str, Any]]:
        """The same, written down."""
        for name, tensor in named:
            self._source.described.append((name, tensor.dtype, tuple(tensor.shape)))
            yield name, tensor

    def _bytes(self) -> int:
        return sum(map(tensor_bytes, self._source.described))

    def _close(self) -> None:
        if self._engine is not None:
            self._engine.shutdown()
        self._engine = None


def tensor_bytes(one: Described) -> int:
    """Bytes of a tensor."""
    import math

    return math.prod(one[2]) * one[1].itemsize
