"""A request on its way through a gateway."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, NamedTuple

from raylm.serve.routing.routing import Asked, session_of

PREFIX_BYTES = 8192
BYTES_OF_TOKEN = 4
"""About, of text in many languages."""


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


def asked_of(model: str, path: str, key: str, headers: Mapping[str, str], fields: dict[str, Any], num_bytes: int) -> Asked:
    """What routing looks at of a request.

    Args:
        key: name of the key that it came with.
        fields: its body, read;
        num_bytes: and its length.
    """
    return Asked(model, path, key, session_of(headers, fields), _prefix(fields), _tokens(fields, num_bytes))


def _prefix(fields: dict[str, Any]) -> bytes:
    """The beginning of what a request gives to read, as text."""
    asked = fields.get("messages", fields.get("prompt", fields.get("input", "")))
    if isinstance(asked, str):
        return asked[:PREFIX_BYTES].encode()
    parts, size = [], 0
    for each in asked if isinstance(asked, list) else ():
        text = f"{each.get('role')}: {each.get('content')}" if isinstance(each, dict) else str(each)
        parts.append(text[: PREFIX_BYTES - size])
        size += len(parts[-1])
        if size >= PREFIX_BYTES:
            break
    return "\n".join(parts).encode()[:PREFIX_BYTES]


def _tokens(fields: dict[str, Any], num_bytes: int) -> int:
    """Of prompt and answer, about."""
    most = fields.get("max_completion_tokens") or fields.get("max_tokens") or fields.get("max_output_tokens") or 256
    return num_bytes // BYTES_OF_TOKEN + (min(most, 2**20) if isinstance(most, int) else 256)
