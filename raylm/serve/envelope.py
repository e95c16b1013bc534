"""One shape for whatever a client is refused, in words, without paths or names of this machine: OpenAI's error envelope, and
Anthropic's on the routes of its shape."""

from __future__ import annotations

import json
import re
from collections.abc import Awaitable, Callable, MutableMapping
from typing import Any, NamedTuple

Message = MutableMapping[str, Any]
Send = Callable[[Message], Awaitable[None]]

TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    429: "rate_limit_error",
    503: "service_unavailable_error",
}
# https://docs.anthropic.com/en/api/errors; it has no code and no param
ANTHROPIC = "/v1/messages"
ANTHROPIC_TYPES = {
    401: "authentication_error",
    403: "permission_error",
    404: "not_found_error",
    413: "request_too_large",
    429: "rate_limit_error",
    503: "overloaded_error",
    529: "overloaded_error",
}
CODES = {
    403: "forbidden",
    404: "not_found",
    405: "method_not_allowed",
    408: "timeout",
    413: "request_too_large",
    415: "unsupported_media_type",
    429: "too_many_requests",
    503: "unavailable",
}
RETRY_AFTER_S = 5
RESTARTING = "The engine that had this request stopped and is being replaced; send the request again in a few seconds."

# what others put into their messages and nobody outside can use: paths, classes, addresses, flags of a server that is not ours
_PATH = re.compile(r"(?<![\w:/.])/(?:[\w.@+~-]+/)+[\w.@+~-]*")
_CLASS = re.compile(r"\b(?:\w+\.)*\w*(?:Error|Exception)\b(?:\(|: ?)")
_ADDRESS = re.compile(r" at 0x[0-9a-fA-F]+")
_VALUES = re.compile(r"\s*\(parameter=.*\)\s*$", re.DOTALL)
_FAULT = re.compile(r"validation errors? for .*?\n\s+(.*?)\s*\[type=", re.DOTALL)
_FLAG = re.compile(r"(?<!\w)--[a-z]|\bVLLM_|\bvLLM\b")
MOST_CHARACTERS = 1000


class Refusal(NamedTuple):
    """Why a request is not answered. `retry_after_s` tells the client when to come again."""

    status: int
    message: str
    code: str
    param: str | None = None
    retry_after_s: int | None = None
    headers: tuple[tuple[bytes, bytes], ...] = ()


class Refused(Exception):
    """Ends the reading of a request; never leaves the process."""

    def __init__(self, refusal: Refusal) -> None:
        super().__init__(refusal.message)
        self.refusal = refusal


def bad_request(message: str, param: str | None = None, code: str = "bad_request") -> Refused:
    """A 400 to raise."""
    return Refused(Refusal(400, message, code, param))


def restarting() -> Refusal:
    """What is said for an engine that died."""
    return Refusal(503, RESTARTING, "engine_restarting", None, RETRY_AFTER_S)


def unguarded() -> Refusal:
    """What is said while the guards of the endpoint cannot be asked."""
    message = "The endpoint cannot count requests just now; send the request again in a few seconds."
    return Refusal(503, message, "unavailable", None, RETRY_AFTER_S)


def failed(status: int = 500) -> Refusal:
    """What is said for a failure of which a client can know nothing else."""
    return Refusal(status, "The endpoint failed on this request; its log says why.", "internal_error")


def foreign(status: int, body: bytes) -> Refusal:
    """The refusal in an error answer that somebody else wrote, in whatever shape."""
    try:
        told = json.loads(body)
    except ValueError:
        told = body.decode("utf-8", "replace")
    inner = told.get("error", told.get("detail", told.get("message", ""))) if isinstance(told, dict) else told
    fields = inner if isinstance(inner, dict) else {"message": inner}
    code, param = fields.get("code"), fields.get("param")
    message = in_words(str(fields.get("message") or ""))
    usual = CODES.get(status, "bad_request" if status < 500 else "internal_error")
    refusal = Refusal(status, message, code if isinstance(code, str) else usual, param if isinstance(param, str) else None)
    if status == 503:
        return refusal._replace(message=message or RESTARTING, retry_after_s=RETRY_AFTER_S)
    return refusal if message and status < 500 else failed(status) if status >= 500 else refusal._replace(message="Refused.")


def in_stream(body: bytes) -> Refusal:
    """The refusal in an error that came within a stream, where the status stands in its code."""
    try:
        code = json.loads(body)["error"]["code"]
    except (ValueError, KeyError, TypeError):
        code = None
    return foreign(code if isinstance(code, int) and 400 <= code < 600 else 500, body)


def in_words(message: str) -> str:
    """A message of another library without what names this machine or the inside of the server."""
    if fault := _FAULT.search(message):
        return fault[1].strip()
    text = _ADDRESS.sub("", _CLASS.sub("", _VALUES.sub("", message)))
    text = _PATH.sub("<path>", text).strip()
    sentences = re.split(r"(?<=[.!?])\s+", text)
    kept = [sentence for sentence in sentences if not _FLAG.search(sentence)]
    return " ".join(kept or ["This endpoint does not serve such a request."])[:MOST_CHARACTERS] if text else ""


def is_anthropic(path: str) -> bool:
    """Whether a route speaks Anthropic's shape."""
    return path == ANTHROPIC or path.startswith(ANTHROPIC + "/")


def envelope(refusal: Refusal, path: str = "") -> bytes:
    """The body that clients of the route `path` turn into typed exceptions."""
    family = "invalid_request_error" if refusal.status < 500 else ""
    if is_anthropic(path):
        kind = ANTHROPIC_TYPES.get(refusal.status, family or "api_error")
        return json.dumps({"type": "error", "error": {"type": kind, "message": refusal.message}}).encode()
    kind = TYPES.get(refusal.status, family or "server_error")
    error = {"message": refusal.message, "type": kind, "param": refusal.param, "code": refusal.code}
    return json.dumps({"error": error}).encode()


def event(refusal: Refusal, path: str = "", number: int = 0) -> bytes:
    """The refusal as the last event of a stream of the route `path`. Events of Anthropic's shape and of /v1/responses have
    names, and clients read no others.

    Args:
        number: of this event, in a stream of /v1/responses.
    """
    body = envelope(refusal, path)
    if path == "/v1/responses":
        body = json.dumps({"type": "error", "sequence_number": number, **json.loads(body), **_flat(refusal)}).encode()
    named = b"event: error\n" if is_anthropic(path) or path == "/v1/responses" else b""
    return named + b"data: " + body + b"\n\n"


def _flat(refusal: Refusal) -> dict[str, Any]:
    return {"code": refusal.code, "message": refusal.message, "param": refusal.param}


async def answer(send: Send, refusal: Refusal, headers: tuple[tuple[bytes, bytes], ...] = (), path: str = "") -> None:
    """Send a whole response to a request of the route `path`."""
    body = envelope(refusal, path)
    said = [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode()), *headers, *refusal.headers]
    if refusal.retry_after_s is not None:
        said.append((b"retry-after", str(refusal.retry_after_s).encode()))
    await send({"type": "http.response.start", "status": refusal.status, "headers": said})
    await send({"type": "http.response.body", "body": body})
