"""A connection to the server of each replica, over which nothing is ever said: its end tells of a death at once.

The silence of beats tells the same of a machine that is gone, whose connections nobody closes, but only after `SILENT_S`.
"""

from __future__ import annotations

import asyncio
import contextlib
import errno
import time
from collections.abc import Callable, Iterable

from raylm.serve.directory import Address

CONNECT_S = 1.0
"""Seconds that a server may take to accept."""
OWN_LACK = (errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM, errno.EADDRNOTAVAIL)
"""What this process lacks for a connection: it tells nothing of a server."""
AGAIN_S = 0.5
"""Seconds between two tries to connect."""


class Lifelines:
    """Connections by address.

    Args:
        lost: told of an address whose server was connected and accepts no more.
        found: told of one that accepts again.
    """

    def __init__(self, lost: Callable[[Address], None], found: Callable[[Address], None]) -> None:
        self._lost, self._found = lost, found
        self._held: dict[tuple[str, str, int], asyncio.Task[None]] = {}

    def follow(self, addresses: Iterable[Address]) -> None:
        """Hold one to each of these and to no other."""
        wanted = {(each.replica, each.host, each.port): each for each in addresses}
        for gone in self._held.keys() - wanted.keys():
            self._held.pop(gone).cancel()
        for new in wanted.keys() - self._held.keys():
            self._held[new] = asyncio.ensure_future(self._hold(wanted[new]))

    async def _hold(self, address: Address) -> None:
        # a server that this process cannot reach at all may well be reached by gateways
        connected = False
        while True:
            try:
                async with asyncio.timeout(CONNECT_S):
                    reader, writer = await asyncio.open_connection(address.host, address.port)
            except (OSError, TimeoutError) as cause:
                if connected and cause.errno not in OWN_LACK:
                    self._lost(address)
                await asyncio.sleep(AGAIN_S)
                continue
            if connected:
                self._found(address)
            connected, since = True, time.monotonic()
            try:
                with contextlib.suppress(OSError):
                    await reader.read(1)
            finally:
                writer.close()
            # a server that lives closes idle connections too: it is asked again before anybody hears of it. At once, unless what
            # accepts closes each connection as it comes (a proxy before a server that ended): Control would do nothing else
            if time.monotonic() - since < AGAIN_S:
                await asyncio.sleep(AGAIN_S)
