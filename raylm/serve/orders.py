"""Brings an engine to what Control orders: its adapters and its weights."""

from __future__ import annotations

import logging
from typing import Any

from raylm.serve.directory import Orders

RENEW_S = 30.0
"""Seconds that what is under way gets before another process takes over."""


async def carry_out(server: Any, orders: Orders) -> None:
    """Make `server` (a `raylm.serve.server.Server`) as `orders` say, and `server.tell()` when something changed. Called one at a
    time: before it is ready, and with each new order."""
    weights = orders.weights
    ordered = (weights.uri, weights.fingerprint) if weights else (server.served.model, server.served.fingerprint)
    if ordered != (server.uri, server.fingerprint):
        server.renew(f"weights {ordered[1]} are ordered", RENEW_S)
        return
    if server.adapters is not None and await server.adapters.bring(orders.adapters):
        for name, why in server.adapters.failed.items():
            logging.getLogger(__name__).error("the adapter %s is not loaded: %s", name, why)
        server.tell()
