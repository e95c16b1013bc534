"""What a gateway does while two versions of a model stand beside each other: it counts what each answers, and sends copies.

A copy is sent when its client has its answer already: it costs the client no time, is charged to nobody, and is dropped once it
has been compared. A new version that fails too much is held back where that is counted, with the answer that shows it.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Coroutine
from typing import Any

import orjson
from aiohttp import web

from raylm.serve.directory import Address
from raylm.serve.gateway.call import Call
from raylm.serve.gateway.dispatch import Dispatch
from raylm.serve.gateway.trail import CHAT, STREAMS
from raylm.serve.routing.routing import Candidate
from raylm.serve.updates.rollout import Compared, Rollout, Tally, Told
from raylm.serve.updates.verdict import reason_at

MOST_COPIES = 8
"""Copies that are under way at once; more are left out, and counted."""
Send = Callable[[Call, Address, bytes], Coroutine[Any, Any, tuple[int, bytes]]]
"""Sends a body to a replica; status and whole answer. Raises ConnectionError where it fails."""


class Beside:
    """Of one gateway.

    Args:
        spawn: runs something beside all else.
        stopped: told that the new version gets no request any more.
    """

    def __init__(
        self,
        dispatch: Dispatch,
        send: Send,
        spawn: Callable[[Coroutine[Any, Any, Any]], object],
        stopped: Callable[[], object] = lambda: None,
    ) -> None:
        self._dispatch, self._send, self._spawn, self._stopped = dispatch, send, spawn, stopped
        self._tally, self._under_way = Tally(), 0

    def told(self) -> Told | None:
        """What was counted of the update that is under way; None where there is none."""
        return self._counting().told() if self._rollout() else None

    def failed(self, address: Address) -> None:
        """A replica failed a request, whoever answered it then."""
        if self._rollout():
            self._counting().count(address.fingerprint, failed=True)
            self._judge()

    def answered(self, call: Call, address: Address, answer: web.StreamResponse, began: float, first: float, ids: Any) -> None:
        """A replica answered a request.

        Args:
            began, first: when it was sent, and when the answer began (time.monotonic).
            ids: tokens of a stream, None where they are not known.
        """
        rollout = self._rollout()
        if rollout is None:
            return
        seconds = time.monotonic() - began
        if answer.status >= 500:
            self.failed(address)
        elif answer.status < 400:
            self._counting().count(address.fingerprint, failed=False, first_s=max(0.0, first - began), seconds=seconds)
            self._copy_where_drawn(rollout, call, address, answer, seconds, ids)

    def _copy_where_drawn(
        self, rollout: Rollout, call: Call, address: Address, answer: web.StreamResponse, seconds: float, ids: Any
    ) -> None:
        if call.method != "POST" or not rollout.shadow:
            return
        ready = [Candidate(row.address, row.load) for row in self._dispatch.view.ready(call.asked.model)]
        found = rollout.shadowed(call.asked, Candidate(address), ready, random.random())
        if not found:
            return
        if self._under_way >= MOST_COPIES:
            self._counting().compare(rollout.fresh, Compared(left_out=1))
            return
        said = ids if ids is not None else _text(call.path, answer.body) if isinstance(answer, web.Response) else None
        self._spawn(self._copy(rollout, call, random.choice(found).address, said, seconds))

    async def _copy(self, rollout: Rollout, call: Call, to: Address, said: Any, seconds: float) -> None:
        """Ask the new version the same, whole."""
        fields = {name: value for name, value in call.fields.items() if name not in ("stream", "stream_options")}
        if isinstance(said, list):
            fields["return_token_ids"] = True
        tally, began = self._counting(), time.monotonic()
        self._under_way += 1
        try:
            status, body = await self._send(call, to, orjson.dumps(fields))
        except ConnectionError:
            status, body = 503, b""
        finally:
            self._under_way -= 1
        if status >= 400:
            tally.compare(rollout.fresh, Compared(sent=1, failed=1))
            self._judge()
            return
        other = _ids(body) if isinstance(said, list) else _text(call.path, body)
        compared = call.fields.get("temperature") == 0 and said is not None and other is not None
        slower_s = time.monotonic() - began - seconds
        tally.compare(rollout.fresh, Compared(1, 0, int(compared), int(compared and said == other), slower_s))
        self._judge()

    def _judge(self) -> None:
        """Hold the new version back where what was counted is reason enough: now, not when somebody looks at the counts."""
        rollout, tally = self._rollout(), self._counting()
        if rollout is None or tally.stop or not (why := reason_at(tally.told(), rollout)):
            return
        tally.stop = why
        self._dispatch.hold_back(rollout.number)
        self._stopped()

    def _rollout(self) -> Rollout | None:
        return self._dispatch.view.rollout

    def _counting(self) -> Tally:
        rollout = self._rollout()
        if rollout is not None and rollout.number != self._tally.number:
            self._tally = Tally(rollout.number)
        return self._tally


def _text(path: str, body: Any) -> Any:
    """What a whole answer of one of these routes says: text and calls of all choices."""
    if path not in STREAMS:
        return None
    try:
        choices = orjson.loads(body)["choices"]
        if path == CHAT:
            return "\n".join(str((each["message"].get("content"), each["message"].get("tool_calls") or [])) for each in choices)
        return "\n".join(each["text"] for each in choices)
    except (ValueError, KeyError, TypeError):
        return None


def _ids(body: bytes) -> list[int] | None:
    try:
        return list(orjson.loads(body)["choices"][0]["token_ids"])
    except (ValueError, KeyError, TypeError, IndexError):
        return None
