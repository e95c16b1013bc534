"""A request on its way through a gateway."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.serve.routing.routing import Asked


class Call(NamedTuple):
    """A request that has been let in."""

    number: str
    method: str
    path: str
    body: bytes
    fields: dict[str, Any]
    asked: Asked
    headers: tuple[tuple[str, str], ...] = ()
    max_len: int = 0

    @property
    def streams(self) -> bool:
        """Whether its answer comes as it is made."""
        return bool(self.fields.get("stream"))
