"""A generator without an engine, for tests of what stands around it: its tokens are a function of prompt, seed and weights."""

from __future__ import annotations

import asyncio
import os
import time
from typing import Any

from raylm.core.errors import DataError
from raylm.inference.buckets import WeightsDigest
from raylm.inference.completions import Completion, VersionSpan
from raylm.inference.engine_dtype import EngineDtype


class Small:
    """Has the methods of Generator.

    Args:
        ends_at: number of the call, not counting starts and versions, at which its process ends; 0 never.
        hangs: do not end there, but stand still with all that runs here.
        keeps: version of which it says that it has it, while it goes on with the weights before.
    """

    def __init__(self, ends_at: int = 0, hangs: bool = False, keeps: int = -1) -> None:
        self.ends_at, self.hangs, self.calls, self.held, self.keeps = ends_at, hangs, 0, 0.0, keeps
        self.number = 0

    def _call(self) -> None:
        self.calls += 1
        if self.calls == self.ends_at:
            if self.hangs:
                time.sleep(1000)
            os._exit(1)

    async def start(self, model_path: str, max_len: int, dtype: str, seed: int, memory_share: float) -> EngineDtype:
        self.held, self.number = 0.0, 0
        return EngineDtype("float32", "")

    async def version(self) -> int | None:
        return self.number

    async def generate(self, prompt: list[int], sampling: Any, seed: int, deadline_s: float) -> list[Completion]:
        await asyncio.sleep(0.01)
        self._call()
        if prompt == [13, 13]:
            os._exit(1)
        if not prompt:
            raise DataError("a prompt has 0 tokens")
        while self.number is None:  # as a paused engine
            await asyncio.sleep(0.01)
        span = VersionSpan(self.number, 0, 3)
        return [Completion([sum(prompt), seed, place], [self.held] * 3, "", "stop", (span,)) for place in range(sampling.n)]

    async def sleep(self) -> None:
        self._call()
        self.held, self.number = float("nan"), None

    async def logprobs(self, tokens: list[int], deadline_s: float) -> list[float]:
        await asyncio.sleep(0.01)
        self._call()
        return [-self.held - token for token in tokens[1:]]

    async def begin_weights(self, transfer: str, names: Any, offer: Any = None) -> None:
        self._call()
        self.before = self.held
        self.number: int | None = None
        self.digest, self.bytes = WeightsDigest(), 0

    async def take_weights(self, bucket: Any, transfer: str) -> None:
        self._call()
        self.bytes += len(bucket.data)
        self.held = float(bucket.data[:4].view("float32")[0])

    async def finish_weights(self, version: int, digest: str, transfer: str, last: Any = None) -> None:
        if last is not None:
            await self.take_weights(last, transfer)
        self._call()
        self.number = version
        if version == self.keeps:
            self.held = self.before
