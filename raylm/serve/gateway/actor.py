"""A gateway as a Ray actor: the process that Ray starts again on the same port when it dies."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable
from typing import Any, TypeVar

from raylm.serve.directory import View
from raylm.serve.gateway.gateway import Gateway
from raylm.serve.gateway.settings import GatewaySettings, Holder, ModelFacts
from raylm.serve.guards.guard import Admission, Visit
from raylm.serve.reach import Reach
from raylm.serve.updates.rollout import Told

Value = TypeVar("Value")
SLOW_S = 5.0
"""Seconds beyond its own that an answer of Control may take."""
WAKE_S = 3600.0


class ByServe:
    """Steering by Control and Serve of this cluster."""

    def __init__(self, application: str) -> None:
        self._application, self._control = application, Reach(application)

    async def changes(self, version: int, timeout_s: float, gateway: str, held: dict[str, int]) -> View | None:
        return await self._asked("changes", timeout_s + SLOW_S, version, timeout_s, gateway, held)

    async def admit(self, visit: Visit) -> Admission:
        return await self._asked("admit", SLOW_S, visit)

    async def finish(self, visit: Visit, tokens: int) -> None:
        await self._asked("finish", SLOW_S, visit, tokens)

    async def tally(self, gateway: str, told: Told) -> None:
        await self._asked("tally", SLOW_S, gateway, told)

    async def wake(self, model: ModelFacts) -> None:
        from ray import serve

        # a call that waits is what Serve starts a first replica for
        await _answered(lambda: serve.get_deployment_handle(model.deployment, self._application).awake.remote(), WAKE_S)

    async def _asked(self, method: str, seconds: float, *args: Any) -> Any:
        return await _answered(lambda: getattr(self._control, method).remote(*args), seconds)


async def _answered(call: Any, seconds: float) -> Any:
    """What a handle answers. Raises ConnectionError where nobody does."""
    from ray.exceptions import RayError
    from ray.serve.exceptions import RayServeException

    try:
        async with asyncio.timeout(seconds):
            return await _of(call())
    except (RayError, RayServeException, TimeoutError, RuntimeError, KeyError) as cause:
        raise ConnectionError(f"{type(cause).__name__}: {cause}"[:300]) from None


async def _of(answer: Awaitable[Value]) -> Value:
    return await answer


class GatewayActor:
    """What Ray runs. Its constructor begins to listen, for after a death Ray calls that alone."""

    def __init__(self, settings: GatewaySettings) -> None:
        # requests are in the audit log, where one is asked for; this tells of failures
        logging.getLogger("raylm.gateway").setLevel(logging.WARNING)
        self._holder = settings.holder
        self._gateway = Gateway(settings, ByServe(settings.application))
        self._started = asyncio.get_running_loop().create_task(self._gateway.start())

    async def listening(self) -> int:
        """The port, once it listens. Raises OSError where the port is taken."""
        return await self._started

    async def holder(self) -> Holder:
        """Whose it is."""
        return self._holder

    async def drain(self, seconds: float) -> int:
        """See `Gateway.drain`."""
        return await self._gateway.drain(seconds)
