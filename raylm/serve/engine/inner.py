"""The door of a replica's own HTTP server: for gateways alone, who know its secret.

secret -> whole body -> what it asks -> vLLM's app -> answer, or OpenAI's envelope
"""

from __future__ import annotations

import asyncio
import contextlib
import hmac
from collections.abc import Awaitable, Callable

from raylm.inference.weight_swap import Hold
from raylm.serve.engine.plain import plainly
from raylm.serve.engine.resume import RESUME, TURN, Turn, ids_of
from raylm.serve.engine.spans import SPANS, Mark, comment_of, header_of
from raylm.serve.envelope import Message, Refusal, Refused, Send, answer, event, failed, foreign, in_stream, restarting

Receive = Callable[[], Awaitable[Message]]
App = Callable[[Message, Receive, Send], Awaitable[None]]

INNER = "x-raylm-inner"
SERVED = "x-raylm-served"
DTYPE = "x-raylm-dtype"
ERRORS = (b'data: {"error"', b"event: error\n")
"""How a stream of vLLM's says that it failed."""
LEAVE_S = 1.0
"""Seconds in which a request whose client left may end by itself before it is cancelled."""
NAMED = ("/v1/messages", "/v1/responses")
"""Routes whose streams have events with names, and no tokens in them."""
GONE: Message = {"type": "http.disconnect"}


async def _anything(path: str, body: bytes) -> None:
    """No further check."""


class InnerDoor:
    """ASGI middleware around `app`.

    Args:
        says: headers that every answer carries; may be changed while it serves.
        body_bytes: most bytes of a body.
        check: reads path and body of a request, and raises Refused.
        is_dead: whether the engine behind the door died.
        hold: what is answered passes it: closed while weights are swapped that are not proved yet.
    """

    def __init__(
        self,
        app: App,
        secret: str,
        says: dict[str, str],
        body_bytes: int,
        check: Callable[[str, bytes], Awaitable[None]] = _anything,
        is_dead: Callable[[], bool] = lambda: False,
        hold: Hold | None = None,
    ) -> None:
        self.app, self.says, self.hold = app, says, hold or Hold()
        self._secret, self._body_bytes, self._check, self.is_dead = secret.encode(), body_bytes, check, is_dead
        self._answers: set[_Answer] = set()

    @property
    def under_way(self) -> int:
        """Requests that have come and have not been answered."""
        return len(self._answers)

    def mark(self, served: str, tokens: dict[str, list[tuple[int, int]]]) -> None:
        """Weights are others from here on: answers under way say so.

        Args:
            served: fingerprint of the new ones.
            tokens: by a request's id in the engine, which holds the one that it came with: places of choices, and how many tokens
                each had before.
        """
        for back in self._answers:
            found = [pair for name, pairs in tokens.items() if back.number and back.number in name for pair in pairs]
            back.mark(Mark(served, tuple(sorted(found))))

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not self._knows(scope):
            # nobody outside learns that anything is here
            if scope["type"] == "http":
                await send({"type": "http.response.start", "status": 404, "headers": [(b"content-length", b"0")]})
                await send({"type": "http.response.body", "body": b""})
            return
        number = next((value.decode("latin-1") for name, value in scope["headers"] if name.lower() == b"x-request-id"), "")
        back = _Answer(send, self, scope["path"], number)
        self._answers.add(back)
        try:
            await self._visit(scope, receive, back)
        except Refused as refused:
            await back.refuse(refused.refusal)
        finally:
            self._answers.remove(back)

    def _knows(self, scope: Message) -> bool:
        sent = [value for name, value in scope["headers"] if name.lower() == INNER.encode()]
        return len(sent) == 1 and hmac.compare_digest(sent[0], self._secret)

    async def _visit(self, scope: Message, receive: Receive, back: _Answer) -> None:
        if self.is_dead():
            raise Refused(restarting())
        body = await _body(receive, self._body_bytes) if scope["method"] == "POST" else b""
        if body is None:
            return
        if scope["method"] == "POST":
            await self._check(scope["path"], body)
        if scope["path"] in NAMED:
            # vLLM's work on this request, in whatever task, sees it
            back.turn = Turn(next((ids_of(value) for name, value in scope["headers"] if name.lower() == RESUME.encode()), ()))
            TURN.set(back.turn)
        own = (INNER.encode(), RESUME.encode())
        scope["headers"] = [each for each in scope["headers"] if each[0].lower() not in own]
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
        call = asyncio.create_task(plainly(self.app(scope, heard, back)))
        try:
            await asyncio.shield(call)
            if not back.started:
                await back.refuse(failed())
        except asyncio.CancelledError:
            # vLLM works in tasks of its own, which end only by hearing that the client left
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

    def __init__(self, send: Send, door: InnerDoor, path: str, number: str) -> None:
        self.number, self._marks = number, list[Mark]()
        self._send, self._door, self._path = send, door, path
        self._signature = tuple((name.encode(), value.encode()) for name, value in door.says.items())
        self._failure: int | None = None
        self._held = b""
        self._streams = False
        self._since = door.hold.dropped
        self.started = False
        self.turn: Turn | None = None
        """Where its tokens are told, for an API whose events do not tell them."""
        self.gone = asyncio.Event()

    async def __call__(self, message: Message) -> None:
        if self.gone.is_set():
            return
        if not await self._door.hold.passes(self._since):
            # of weights that were not what they were said to be: what is not sent yet is computed anew
            await self.refuse(restarting())
            self.gone.set()
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
            if self._streams and self._marks:
                # what vLLM sends at once are whole events
                message["body"] = b"".join(comment_of(mark) for mark in self._marks) + message.get("body", b"")
                self._marks.clear()
            if self._streams and self.turn is not None and (told := self.turn.take()):
                message["body"] = told + message.get("body", b"")
            await self._send(message)

    def mark(self, mark: Mark) -> None:
        """From here on this answer is of other weights."""
        self._marks.append(mark)

    async def refuse(self, refusal: Refusal) -> None:
        """Send the refusal as the whole answer; within a stream that has begun, as its last event."""
        if self.gone.is_set():
            return
        refusal = restarting() if refusal.status >= 500 and self._door.is_dead() else refusal
        if not self.started:
            self.started = True
            await answer(self._send, refusal, self._signature, self._path)
        elif self._streams:
            await self._send({"type": "http.response.body", "body": event(refusal, self._path)})

    async def _start(self, message: Message) -> None:
        if message["status"] >= 400:
            self._failure = message["status"]
            return
        headers = [*message.get("headers", []), *self._signature]
        self._streams = any(name.lower() == b"content-type" and value.startswith(b"text/event-stream") for name, value in headers)
        self.started = True
        if self._marks and not self._streams:
            headers.append((SPANS.encode(), header_of(self._marks).encode()))
        await self._send({**message, "headers": headers})

    def _event(self, said: bytes) -> bytes:
        """An error event of vLLM's, in the one shape; what follows it in the same chunk stays."""
        first, _, rest = said.partition(b"\n\n")
        told = restarting() if self._door.is_dead() else in_stream(first.partition(b"data: ")[2])
        return event(told, self._path) + rest


async def _body(receive: Receive, most: int) -> bytes | None:
    """The whole body; None when the client left before it ended. Raises Refused (413) beyond `most` bytes."""
    parts, size = [], 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            return None
        parts.append(message.get("body", b""))
        size += len(parts[-1])
        if size > most:
            raise Refused(
                Refusal(413, f"The body has more than {most} bytes, the most that this endpoint takes.", "request_too_large")
            )
        if not message.get("more_body", False):
            return b"".join(parts)


async def _until_gone(receive: Receive, gone: asyncio.Event) -> None:
    with contextlib.suppress(asyncio.CancelledError):
        while (await receive())["type"] != "http.disconnect":
            pass
        gone.set()
