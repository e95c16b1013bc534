"""Asks a replica that failed a request until it answers again, or the directory no longer has it."""

from __future__ import annotations

import asyncio

import aiohttp

from raylm.serve.directory import Address
from raylm.serve.engine.inner import INNER, SERVED
from raylm.serve.gateway.dispatch import Dispatch

FIRST_S, LONGEST_S = 0.05, 1.0
"""Seconds between two questions; they double."""
ANSWER_S = 2.0


class Probe:
    """Of one gateway."""

    def __init__(self, session: aiohttp.ClientSession, dispatch: Dispatch) -> None:
        self._session, self._dispatch = session, dispatch
        self._asking: set[str] = set()

    async def until_it_answers(self, address: Address) -> None:
        """Returns when the replica is trusted again or struck off."""
        if address.secret in self._asking:
            return
        self._asking.add(address.secret)
        try:
            pause = FIRST_S
            while self._dispatch.suspected(address):
                if await self._answers(address):
                    self._dispatch.trust(address)
                    return
                await asyncio.sleep(pause)
                pause = min(2 * pause, LONGEST_S)
        finally:
            self._asking.discard(address.secret)

    async def _answers(self, address: Address) -> bool:
        host = f"[{address.host}]" if ":" in address.host else address.host
        try:
            async with asyncio.timeout(ANSWER_S):
                async with self._session.get(f"http://{host}:{address.port}/health", headers={INNER: address.secret}) as answer:
                    return answer.status == 200 and SERVED in answer.headers
        except (aiohttp.ClientError, OSError, TimeoutError):
            return False
