"""The front door of vLLM's HTTP app: authentication, limits, and one form of errors.

key, route -> whole body -> guards -> what it asks -> app -> answer, or the envelope -> what it cost: guards, audit log
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from collections.abc import Awaitable, Callable
from typing import NamedTuple
from uuid import uuid4

from raylm.serve import auth
from raylm.serve.envelope import Message, Refusal, Refused, Send, answer, event, failed, foreign, in_stream, restarting
from raylm.serve.guards.guard import Admission, Visit
from raylm.serve.keys import KeyRecord, KeyRing
from raylm.serve.plain import plainly
from raylm.serve.usage import Counter, Done, asking_usage

Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

SERVED = "x-raylm-served"
DTYPE = "x-raylm-dtype"
STAGE = "x-raylm-stage"
ERRORS = (b'data: {"error"', b"event: error\n")
"""How a stream of vLLM's says that it failed."""
# how long a request whose client left may take to end by itself before it is cancelled
LEAVE_S = 1.0
BODY_S = 120.0
GONE: Message = {"type": "http.disconnect"}


async def _anything(path: str, body: bytes) -> None:
    """No further check."""


async def _anybody(visit: Visit) -> Admission:
    """No guards."""
    return Admission(None)


class Entry(NamedTuple):
    """What the door asks of those who come in.

    Args:
        keys: digests of keys, so that no cluster state and no log can show one; None asks for no key.
        says: headers that every answer carries: SERVED, the fingerprint of the weights behind the door, and DTYPE, what the
            engine computes in.
        body_bytes: most bytes of a request's body.
        check: reads path and body of a request, and raises Refused.
        admit: asks the guards of the endpoint; /health is not asked about.
        stage_digest: of the secret that requests of the serve stage itself carry in the header STAGE: what compares the endpoint
            with transformers is no client, and no guard counts it. "" where there is none.
        is_dead: whether the engine behind the door died.
        done: told of each request that was admitted when it has ended, with the model that it named and its body; without it
            nothing is counted.
    """

    keys: KeyRing | None
    says: dict[str, str]
    body_bytes: int = 4_000_000
    check: Callable[[str, bytes], Awaitable[None]] = _anything
    admit: Callable[[Visit], Awaitable[Admission]] = _anybody
    stage_digest: str = ""
    is_dead: Callable[[], bool] = lambda: False
    done: Callable[[Done, str, bytes], Awaitable[None]] | None = None


class FrontDoor:
    """ASGI middleware around `app`."""

    def __init__(self, app: App, entry: Entry) -> None:
        self._app, self._entry = app, entry

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] == "lifespan":
            await self._app(scope, receive, send)
        elif scope["type"] != "http":
            await send({"type": "websocket.close", "code": 1008})
        else:
            back = _Answer(send, self._entry, scope["path"])
            try:
                await self._visit(scope, receive, back)
            except Refused as refused:
                await back.refuse(refused.refusal)

    async def _visit(self, scope: Message, receive: Receive, back: _Answer) -> None:
        key = await auth.enter(scope, self._entry.keys)
        if self._entry.is_dead():
            raise Refused(restarting())
        try:
            async with asyncio.timeout(BODY_S):
                body = await _body(scope, receive, self._entry.body_bytes) if scope["method"] == "POST" else b""
        except TimeoutError as late:
            raise Refused(Refusal(408, f"The body did not arrive within {BODY_S:g} s.", "timeout")) from late
        if body is None:
            return
        if scope["path"] in auth.OPEN or auth.is_stage(scope, STAGE, self._entry.stage_digest):
            await self._checked(scope, key, body, receive, back)
            return
        visit = Visit(key.digest, scope["method"], scope["path"], len(body), key.name, uuid4().hex)
        refusal, headers = await self._admitted(visit)
        back.say(headers)
        if refusal is not None:
            raise Refused(refusal)
        if self._entry.done is None:
            await self._checked(scope, key, body, receive, back)
        else:
            await self._counted(visit, scope, key, body, receive, back)

    async def _admitted(self, visit: Visit) -> Admission:
        """What the guards say. A client that leaves meanwhile is told to them too: they may have counted it in."""
        asked = asyncio.ensure_future(self._entry.admit(visit))
        try:
            return await asyncio.shield(asked)
        except asyncio.CancelledError:
            admission = await asked
            if admission.refusal is None and self._entry.done is not None:
                await self._entry.done(Done(visit, 499, 0, 0, 0.0, 0.0), "", b"")
            raise

    async def _counted(self, visit: Visit, scope: Message, key: KeyRecord, body: bytes, receive: Receive, back: _Answer) -> None:
        """Let a request through, and tell at its end, whatever that is, what it cost."""
        assert self._entry.done is not None
        asked, shown = asking_usage(visit.path, body)
        back.count(Counter(shown))
        started = time.monotonic()
        try:
            await self._checked(scope, key, asked, receive, back)
        except Refused as refused:
            back.status = refused.refusal.status
            raise
        finally:
            # one that hangs up behind the last word has its answer
            left = back.gone.is_set() and not back.ended
            now, status = time.monotonic(), 499 if left else back.status
            counted = back.counter
            tokens = (counted.prompt_tokens, counted.completion_tokens) if counted else (0, 0)
            done = Done(visit, status, *tokens, now - started, (back.first or now) - started)
            # a client that leaves cancels this call: what it cost is told all the same
            await asyncio.shield(self._entry.done(done, _model(body), body))

    async def _checked(self, scope: Message, key: KeyRecord, body: bytes, receive: Receive, back: _Answer) -> None:
        if scope["method"] == "POST":
            if key.models:
                auth.check_scope(key, _model(body))
            await self._entry.check(scope["path"], body)
        await self._through(scope, body, receive, back)

    async def _through(self, scope: Message, body: bytes, receive: Receive, back: _Answer) -> None:
        """Run the app, and see to it that it ends when the client is gone."""
        sent = False

        async def heard() -> Message:
            nonlocal sent
            if not sent:
                sent = True
                return {"type": "http.request", "body": body, "more_body": False}
            await back.gone.wait()
            return GONE

        listening = asyncio.create_task(_until_gone(receive, back.gone))
        call = asyncio.create_task(plainly(self._app(scope, heard, back)))
        try:
            await asyncio.shield(call)
            if not back.started:
                await back.refuse(failed())
        except asyncio.CancelledError:
            # Serve cancels this call alone. vLLM works in tasks of its own, which end only by hearing that the client left
            back.gone.set()
            await asyncio.wait({call}, timeout=LEAVE_S)
            raise
        except RuntimeError:
            await back.refuse(failed())
        finally:
            listening.cancel()
            call.cancel()


class _Answer:
    """The way back: what succeeded passes, signed; what failed is told in the one shape."""

    def __init__(self, send: Send, entry: Entry, path: str) -> None:
        self._send, self._entry, self._path = send, entry, path
        self._signature = tuple((name.encode(), value.encode()) for name, value in entry.says.items())
        self._failure: int | None = None
        self.counter: Counter | None = None
        self.status, self.first = 500, 0.0
        """Of HTTP, and when the answer began (time.monotonic)."""
        self._held = b""
        self._streams = self._whole = False
        self.started = False
        self.gone = asyncio.Event()

    @property
    def ended(self) -> bool:
        """Whether the whole answer has been sent."""
        return self._whole or (self.counter is not None and self.counter.ended)

    def say(self, headers: tuple[tuple[bytes, bytes], ...]) -> None:
        """Headers that this answer carries too."""
        self._signature += headers

    def count(self, counter: Counter) -> None:
        """Let `counter` see the answer."""
        self.counter = counter

    async def __call__(self, message: Message) -> None:
        if self.gone.is_set():
            return
        if message["type"] == "http.response.start":
            await self._start(message)
        elif self._failure is not None:
            self._held += message.get("body", b"")
            if not message.get("more_body", False):
                await self.refuse(foreign(self._failure, self._held))
        else:
            if self._streams and message.get("body", b"").startswith(ERRORS):
                message["body"] = self._event(message["body"])
            if self.counter and message.get("body"):
                message["body"] = self.counter.see(message["body"], self._streams)
            await self._send(message)
            self._whole = not message.get("more_body", False)

    async def refuse(self, refusal: Refusal) -> None:
        """Send the refusal as the whole answer; within a stream that has begun, as its last event."""
        if self.gone.is_set():
            return
        refusal = restarting() if refusal.status >= 500 and self._entry.is_dead() else refusal
        if not self.started:
            self.started, self.status, self.first = True, refusal.status, time.monotonic()
            await answer(self._send, refusal, self._signature, self._path)
        elif self._streams:
            await self._send({"type": "http.response.body", "body": event(refusal, self._path)})

    async def _start(self, message: Message) -> None:
        if message["status"] >= 400:
            self._failure = message["status"]
            return
        headers = [*message.get("headers", []), *self._signature]
        self._streams = any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        self.started, self.status, self.first = True, message["status"], time.monotonic()
        await self._send({**message, "headers": self._sized(headers)})

    def _sized(self, headers: list[tuple[bytes, bytes]]) -> list[tuple[bytes, bytes]]:
        """Without a length that no longer holds where an event may be left out."""
        if not (self.counter and self._streams):
            return headers
        return [(name, value) for name, value in headers if name.lower() != b"content-length"]

    def _event(self, said: bytes) -> bytes:
        """An error event of vLLM's, in the one shape; what follows it in the same chunk stays."""
        first, _, rest = said.partition(b"\n\n")
        told = restarting() if self._entry.is_dead() else in_stream(first.partition(b"data: ")[2])
        return event(told, self._path) + rest


def _model(body: bytes) -> str:
    """The model that a request names."""
    try:
        fields = json.loads(body) if body else {}
    except (ValueError, RecursionError):
        return ""
    return str(fields.get("model") or "") if isinstance(fields, dict) else ""


async def _body(scope: Message, receive: Receive, most: int) -> bytes | None:
    """The whole body; None when the client left before it ended. Raises Refused (413) beyond `most` bytes."""
    declared = dict(scope["headers"]).get(b"content-length", b"0")
    parts, size = [], 0
    too_large = Refused(
        Refusal(413, f"The body has more than {most} bytes, the most that this endpoint takes.", "request_too_large")
    )
    if declared.isdigit() and int(declared[:20]) > most:
        raise too_large
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise too_large
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_gone(receive: Receive, gone: asyncio.Event) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
