"""A generator whose engine is a table of tensors, behind the real intake: what weights arrive where, without vLLM."""

from __future__ import annotations

import asyncio
from typing import Any

import torch

from raylm.inference.buckets import Receiver, weights_digest
from raylm.inference.intake import Intake
from raylm.inference.shared_memory import Maps


class Plain:
    """Has the methods of Generator that weights need.

    Args:
        alone: cannot read the memory of other processes, as on another machine.
    """

    def __init__(self, alone: bool = False) -> None:
        self.weights: dict[str, torch.Tensor] = {}
        self.version: int | None = 0
        self.alone, self.log, self.fails, self.maps = alone, list[str](), "", Maps()
        self.intake = Intake(self._workers, self._stop)

    async def _workers(self, method: str, *args: Any) -> list[Any]:
        if method == "raylm_put_weights":
            await self._workers("raylm_begin_weights")
            for path, at, table in args[0]:
                await self._workers("raylm_take_weights", path, table, at, True)
            return await self._workers("raylm_finish_weights")
        self.log.append(method.removeprefix("raylm_").removesuffix("_weights"))
        if method == self.fails:
            raise RuntimeError("this worker failed")
        if method == "raylm_begin_weights":
            self.receiver = Receiver(self.maps)
        elif method == "raylm_take_weights":
            for name, tensor in self.receiver.take(*args):
                self.weights.setdefault(name, torch.empty_like(tensor)).copy_(tensor)
        else:
            return [self.receiver.digest()]
        return [None]

    async def _stop(self) -> None:
        self.version = None

    async def begin_weights(self, transfer: str, names: Any = None, offer: Any = None) -> Any:
        return await self.intake.begin(transfer, offer._replace(path="") if self.alone and offer else offer)

    async def take_weights(self, bucket: Any, transfer: str) -> None:
        await asyncio.sleep(0.01)
        await self.intake.take(bucket, transfer)

    async def finish_weights(self, version: int, digest: str, transfer: str, last: Any = None) -> None:
        await self.intake.finish(version, digest, transfer, lambda names: None, last)
        self.version = version

    async def seen(self) -> tuple[int | None, str, list[str]]:
        """Version, digest of the weights, and what the workers were called for since the last time."""
        log, self.log = self.log, []
        return self.version, weights_digest(self.weights.items()), log

    async def fail(self, method: str) -> None:
        self.fails = method
