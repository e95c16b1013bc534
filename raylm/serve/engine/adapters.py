"""The LoRA adapters of one replica: brings its engine to those that are ordered.

Control's orders --beat--> Adapters.bring: check, copy, load or unload --> names that this replica answers to
"""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import Awaitable, Callable
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.errors import RaylmError
from raylm.serve.directory import AdapterOrder
from raylm.serve.engine.adapter_check import Base, Checked, checked


class Hooks(NamedTuple):
    """How an engine takes adapters: see `raylm.inference.vllm_adapters_private`."""

    load: Callable[[str, int, str], Awaitable[None]]
    """(name, number of this loading, folder)."""
    unload: Callable[[str], Awaitable[None]]


class Adapters:
    """What is loaded, and what could not be.

    Args:
        most: adapters at once.
    """

    def __init__(self, base: Base, most: int, hooks: Hooks) -> None:
        self._base, self._most, self._hooks = base, most, hooks
        # only this process reads the copies; they go with it
        self._folder = tempfile.TemporaryDirectory(prefix="raylm-adapters-")
        self._loaded: dict[str, tuple[AdapterOrder, Checked]] = {}
        self._failed: dict[str, tuple[AdapterOrder, str]] = {}
        self._numbers, self._bringing = 0, asyncio.Lock()

    @property
    def names(self) -> tuple[str, ...]:
        """Those that requests may name."""
        return tuple(self._loaded)

    @property
    def lineage(self) -> dict[str, dict[str, Any]]:
        """Where they come from."""
        return {name: found.lineage for name, (_, found) in self._loaded.items()}

    @property
    def failed(self) -> dict[str, str]:
        """Why some that are ordered are not there."""
        return {name: why for name, (_, why) in self._failed.items()}

    async def bring(self, ordered: tuple[AdapterOrder, ...]) -> bool:
        """Load and unload until it is as ordered; one that failed is tried again when it is ordered anew. Returns whether
        anything is other than before."""
        async with self._bringing:
            before = (self.names, self.failed)
            wanted = {order.name: order for order in ordered}
            for name, (order, _) in list(self._loaded.items()):
                if wanted.get(name) != order:
                    del self._loaded[name]
                    await self._hooks.unload(name)
            self._failed = {name: kept for name, kept in self._failed.items() if wanted.get(name) == kept[0]}
            for name, order in wanted.items():
                if name not in self._loaded and name not in self._failed:
                    await self._load(order)
            return before != (self.names, self.failed)

    async def _load(self, order: AdapterOrder) -> None:
        if len(self._loaded) >= self._most:
            self._failed[order.name] = (order, f"there is room for {self._most} adapters: unload one, or raise lora.most")
            return
        try:
            found = await asyncio.to_thread(checked, order.name, order.uri, self._base, Path(self._folder.name))
            self._numbers += 1
            await self._hooks.load(order.name, self._numbers, str(found.at))
        except RaylmError as cause:
            self._failed[order.name] = (order, str(cause))
        else:
            self._loaded[order.name] = (order, found)
