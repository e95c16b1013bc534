"""CORS: which pages of other origins a browser lets ask the endpoint (https://fetch.spec.whatwg.org/#http-cors-protocol)."""

from __future__ import annotations

from collections.abc import Sequence

from aiohttp import web

MAX_AGE_S = 600
EXPOSED = "x-request-id, x-raylm-served, x-raylm-dtype, retry-after, x-ratelimit-limit-requests, x-ratelimit-remaining-requests"


class Origins:
    """Those of the job file; none of them is let do more than others: a key is asked for as of everybody."""

    def __init__(self, allowed: Sequence[str]) -> None:
        self._allowed = frozenset(origin.rstrip("/") for origin in allowed)

    def headers(self, request: web.BaseRequest) -> list[tuple[str, str]]:
        """What an answer says to the browser that asked; nothing to one whose page may not."""
        if not self._allowed:
            return []
        origin = request.headers.get("origin", "")
        if not self._may(origin):
            return [("vary", "origin")]
        return [("access-control-allow-origin", origin), ("access-control-expose-headers", EXPOSED), ("vary", "origin")]

    def preflight(self, request: web.BaseRequest) -> list[tuple[str, str]] | None:
        """The answer to a browser that asks whether it may ask; None for every other request."""
        if request.method != "OPTIONS" or "access-control-request-method" not in request.headers:
            return None
        if not self._may(request.headers.get("origin", "")):
            return None
        return [
            ("access-control-allow-methods", "GET, POST"),
            ("access-control-allow-headers", "authorization, content-type, x-api-key, x-request-id, x-session-id"),
            ("access-control-max-age", str(MAX_AGE_S)),
        ]

    def _may(self, origin: str) -> bool:
        return bool(origin) and ("*" in self._allowed or origin in self._allowed)
