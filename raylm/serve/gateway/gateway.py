"""One gateway: the process that clients reach. Knows no Ray; `actor.py` runs it as an actor, tests as it is.

request -> route, key -> body -> guards -> model, scope -> Dispatch -> Forward -> answer -> what it cost: guards, audit log
           \\-> /health, /v1/models, /metrics: answered here
"""

from __future__ import annotations

import asyncio
import contextlib
import logging
import re
import time
from collections.abc import Coroutine
from typing import Any
from uuid import uuid4

import aiohttp
import orjson
from aiohttp import web

from raylm.serve import auth
from raylm.serve.api.json_body import parsed
from raylm.serve.audit import AuditLog
from raylm.serve.directory import Address
from raylm.serve.engine.inner import DTYPE, SERVED
from raylm.serve.envelope import Refusal, Refused, bad_request, unguarded
from raylm.serve.gateway.beside import Beside
from raylm.serve.gateway.call import Call, asked_of
from raylm.serve.gateway.dispatch import Dispatch
from raylm.serve.gateway.forward import CONNECT_S, SENT, Forward
from raylm.serve.gateway.listener import Listener, whole_body
from raylm.serve.gateway.meter import Cost
from raylm.serve.gateway.metrics import Counters
from raylm.serve.gateway.origins import Origins
from raylm.serve.gateway.pages import Pages
from raylm.serve.gateway.probe import Probe
from raylm.serve.gateway.reply import Reply
from raylm.serve.gateway.settings import STAGE, GatewaySettings, ModelFacts, Steering
from raylm.serve.guards.guard import Admission, Guards, Visit
from raylm.serve.keys import KeyRecord, KeyRing
from raylm.serve.routing.routing import Asked
from raylm.serve.usage import Done

POLL_S = 0.5
"""Seconds after which a view is asked for again, for its loads."""
TELL_S = 3.0
"""Seconds that guards and audit log get at the end for what they have not written."""
FINISH_S = 60.0
"""Seconds in which Control is told again what a request cost; a new one stands within a few."""
_REQUEST_ID = re.compile(r"[\w.:-]{1,128}")


class Gateway:
    """Answers clients for as long as its process lives."""

    def __init__(self, settings: GatewaySettings, steering: Steering) -> None:
        self._settings, self._steering = settings, steering
        self._keys = KeyRing(settings.key_digest, settings.keys_uri) if settings.key_digest else None
        own = settings.guards and not settings.guards_at_control
        self._guards = Guards(list(settings.guards), settings.counted_uri) if own else None
        self._log = AuditLog(settings.audit_folder, settings.audit) if settings.audit and settings.audit_folder else None
        self._counters, self._origins = Counters(), Origins(settings.spec.cors)
        self._dispatch = Dispatch(settings, self._woken)
        self._pages = Pages(settings, self._dispatch, self._counters)
        # what it counted before a death of its process is not counted again
        self._start = f"{settings.name}-{uuid4().hex[:8]}"
        self._waking: set[str] = set()
        self._tasks: set[asyncio.Task[Any]] = set()
        self._telling: set[asyncio.Task[Any]] = set()
        self._under_way = 0
        self._draining = False

    async def start(self) -> int:
        """Listen; returns the port. Raises OSError where it is taken."""
        # nothing of one request may reach another: no cookies, no redirects; and no limit but those of admission
        self._session = aiohttp.ClientSession(
            connector=aiohttp.TCPConnector(limit=0, keepalive_timeout=30, use_dns_cache=True),
            cookie_jar=aiohttp.DummyCookieJar(),
            timeout=aiohttp.ClientTimeout(total=None, sock_connect=CONNECT_S),
            skip_auto_headers=("Accept", "Accept-Encoding", "User-Agent", "Content-Type"),
            auto_decompress=False,
        )
        self._probe = Probe(self._session, self._dispatch)
        self._forward = Forward(self._session, self._dispatch, self._settings.spec, self._lost, self._resumed)
        self._listener = Listener(self.handle)
        self._beside = self._forward.beside = Beside(self._dispatch, self._forward.whole, self._spawn, self._held_back)
        self._spawn(self._follow())
        return await self._listener.listen(self._settings.host, self._settings.port)

    async def drain(self, seconds: float) -> int:
        """Take no new connection, answer what is under way for so long; returns the requests that were cut off then."""
        self._draining = True
        self._listener.close()
        until = time.monotonic() + seconds
        while self._under_way and time.monotonic() < until:
            await asyncio.sleep(0.02)
        left = self._under_way
        await self._listener.shutdown(0.1)
        # what the last requests cost is written down
        until = time.monotonic() + TELL_S
        while self._telling and time.monotonic() < until:
            await asyncio.wait(self._telling, timeout=until - time.monotonic())
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._session.close()
        return left

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        """Answer one request, whatever it is."""
        own = request.headers.get("x-request-id", "")
        number = uuid4().hex
        reply = Reply(request, request.path)
        reply.say([("x-request-id", own if _REQUEST_ID.fullmatch(own) else number), *self._origins.headers(request)])
        self._under_way += 1
        try:
            return await self._visit(request, reply, number)
        except Refused as refused:
            if not any(name == SERVED for name, _ in reply.said):
                reply.say(self._signature(None))
            return await reply.refuse(refused.refusal)
        finally:
            self._under_way -= 1

    async def _visit(self, request: web.BaseRequest, reply: Reply, number: str) -> web.StreamResponse:
        if request.method == "CONNECT" or "upgrade" in request.headers:
            raise bad_request("This endpoint speaks HTTP/1.1 alone: no tunnels, no WebSockets.", code="unsupported_protocol")
        if (allowed := self._origins.preflight(request)) is not None:
            return reply.whole(204, allowed, b"")
        scope = {"path": request.path, "method": request.method, "headers": request.raw_headers}
        key = await auth.enter(scope, self._keys)
        if request.path == "/health":
            status, told = self._pages.health(self._draining)
            return reply.whole(status, [("content-type", "application/json"), *self._signature(None)], orjson.dumps(told))
        if self._draining:
            raise Refused(Refusal(503, "This endpoint is being stopped.", "unavailable", None, 5))
        body = await whole_body(request, self._settings.limits.body_bytes) if request.method == "POST" else b""
        if auth.is_stage(scope, STAGE, self._settings.stage_digest):
            return await self._answer(request, reply, number, key, body, Cost())
        return await self._counted(request, reply, number, key, body)

    async def _counted(
        self, request: web.BaseRequest, reply: Reply, number: str, key: KeyRecord, body: bytes
    ) -> web.StreamResponse:
        """Ask the guards, answer, and tell at the end, whatever that is, what it cost."""
        visit = Visit(key.digest, request.method, request.path, len(body), key.name, number)
        admission = await self._admitted(visit)
        reply.say([(name.decode(), value.decode()) for name, value in admission.headers])
        if admission.refusal is not None:
            self._counters.ended("", request.path, admission.refusal.status, (0, 0), 0.0)
            raise Refused(admission.refusal)
        cost, began, status = Cost(), time.monotonic(), 500
        try:
            answer = await self._answer(request, reply, number, key, body, cost)
            status = reply.status
            return answer
        except Refused as refused:
            status = reply.status if reply.started else refused.refusal.status
            raise
        except (asyncio.CancelledError, ConnectionError):
            # who has the last event needs no end of the connection
            status = reply.status if reply.told_all else 499
            raise
        finally:
            now = time.monotonic()
            served = next((value for name, value in reply.said if name.lower() == SERVED), "")
            done = Done(visit, status, *cost.tokens, now - began, (reply.first or now) - began, served, cost.marks)
            if self._guards is not None:
                self._guards.count(visit, done.tokens)
            self._tell(self._told(done, cost.model, body))

    async def _answer(
        self, request: web.BaseRequest, reply: Reply, number: str, key: KeyRecord, body: bytes, cost: Cost
    ) -> web.StreamResponse:
        if request.method == "GET":
            return await self._page(request, reply, number, key)
        fields = parsed(body, self._settings.limits.json_depth)
        name, facts = self._model(fields, key)
        cost.model = name
        reply.say(self._signature(name))
        if facts.routes and request.path not in facts.routes:
            message = f"The model `{name}` does not answer {request.path}, but {', '.join(facts.routes)}."
            raise bad_request(message, "model", "model_not_supported")
        asked = asked_of(name, request.path, key.name, request.headers, fields, len(body))
        headers = tuple((header, value) for header in SENT if (value := request.headers.get(header)) is not None)
        max_len = next((row.address.max_len for row in self._dispatch.view.ready(name)), facts.max_len)
        call = Call(number, "POST", request.path, body, fields, asked, headers, max_len)
        return await self._forward.run(call, reply, cost.by)

    async def _page(self, request: web.BaseRequest, reply: Reply, number: str, key: KeyRecord) -> web.StreamResponse:
        json_type, path = ("content-type", "application/json"), request.path
        if path == "/v1/models":
            return reply.whole(200, [json_type, *self._signature(None)], orjson.dumps(self._pages.models(key)))
        if path.startswith(auth.MODEL):
            name = path.removeprefix(auth.MODEL)
            return reply.whole(200, [json_type, *self._signature(name)], orjson.dumps(self._pages.model(name, key)))
        if path == "/metrics":
            auth.check_whole(key, path)
            text = await self._pages.metrics(self._session)
            kind = ("content-type", "text/plain; version=0.0.4; charset=utf-8")
            return reply.whole(200, [kind, *self._signature(None)], text.encode())
        asked = Asked(self._settings.models[0].name, "", key.name)
        return await self._forward.run(Call(number, "GET", path, b"", {}, asked), reply, lambda _: None)

    def _model(self, fields: dict[str, Any], key: KeyRecord) -> tuple[str, ModelFacts]:
        """The model that a request names, or the only one. Raises Refused."""
        name, models = fields.get("model"), self._dispatch.models()
        if name is None and len(self._settings.models) == 1:
            name = self._settings.models[0].name
        if not isinstance(name, str) or not name:
            # a key for some models is told no others
            auth.check_scope(key, "")
            raise bad_request(f"`model` must name one of {', '.join(models)}.", "model")
        auth.check_scope(key, name)
        if name not in models:
            raise Refused(self._pages.no_model(name, key))
        return name, models[name]

    async def _admitted(self, visit: Visit) -> Admission:
        """What the guards say."""
        if self._guards is not None:
            return await self._guards.admit(visit)
        if not self._settings.guards:
            return Admission(None)
        # a client that leaves meanwhile is told to Control too: it may have counted it in
        asked = asyncio.ensure_future(self._steering.admit(visit))
        try:
            return await asyncio.shield(asked)
        except ConnectionError:
            # nobody is admitted uncounted while Control starts again; one that was only slow may have counted it in
            self._tell(self._finished(visit, 0))
            return Admission(unguarded())
        except asyncio.CancelledError:
            self._tell(self._given_back(asked, visit))
            raise

    async def _given_back(self, asked: asyncio.Future[Admission], visit: Visit) -> None:
        with contextlib.suppress(ConnectionError):
            if (await asked).refusal is not None:
                return
        await self._finished(visit, 0)

    async def _finished(self, visit: Visit, tokens: int) -> None:
        """Tell Control, which knows those that it was told of already, until it hears."""
        until = time.monotonic() + FINISH_S
        while True:
            try:
                return await self._steering.finish(visit, tokens)
            except ConnectionError:
                if time.monotonic() > until:
                    raise
            await asyncio.sleep(POLL_S)

    async def _told(self, done: Done, model: str, body: bytes) -> None:
        """A request has ended."""
        self._counters.ended(model, done.visit.path, done.status, (done.prompt_tokens, done.completion_tokens), done.first_s)
        if self._guards is not None:
            self._tell(self._guards.save())
        elif self._settings.guards:
            self._tell(self._finished(done.visit, done.tokens))
        if self._log is not None:
            # last, for it may write those of others too
            await self._log.append(done, model, body)

    async def _follow(self) -> None:
        """Keep the view new; without Control the last one stays."""
        while True:
            try:
                view = await self._steering.changes(
                    self._dispatch.view.version, POLL_S, self._settings.name, self._dispatch.held()
                )
                if view is not None:
                    self._dispatch.see(view)
                await self._tallied()
            except ConnectionError:
                await asyncio.sleep(POLL_S)

    def _held_back(self) -> None:
        """A new version gets no request of this gateway any more: Control need not wait for the next look to hear of it."""
        self._spawn(self._tallied())

    async def _tallied(self) -> None:
        if (told := self._beside.told()) is not None:
            # where it does not hear, the next look tells it
            with contextlib.suppress(ConnectionError):
                await self._steering.tally(self._start, told)

    def _lost(self, address: Address, why: str) -> None:
        """A replica failed a request: nothing more is sent there until it answers again."""
        logging.getLogger("raylm.gateway").warning("replica %s of %s %s", address.replica, address.model, why)
        self._counters.failed(address.replica)
        self._dispatch.suspect(address)
        self._spawn(self._probe.until_it_answers(address))

    def _resumed(self) -> None:
        self._counters.resumed += 1

    def _woken(self, model: ModelFacts) -> None:
        """Somebody waits for a model that has no replica: let Serve start one."""
        if model.name not in self._waking:
            self._waking.add(model.name)
            self._spawn(self._wake(model))

    async def _wake(self, model: ModelFacts) -> None:
        try:
            while True:
                try:
                    return await self._steering.wake(model)
                except ConnectionError:
                    logging.getLogger("raylm.gateway").warning("no replica of %s could be started", model.name)
                # those who wait ask no second time
                await asyncio.sleep(POLL_S)
                if not self._dispatch.held().get(model.name):
                    return None
        finally:
            self._waking.discard(model.name)

    def _signature(self, name: str | None) -> list[tuple[str, str]]:
        """Which weights answer, where that is one thing: of the model, or of the only one."""
        models = self._dispatch.models()
        facts = models.get(name) if name else self._settings.models[0] if len(self._settings.models) == 1 else None
        if facts is None:
            return []
        address = next((row.address for row in self._dispatch.view.ready(name or facts.name)), None)
        served, dtype = (address.fingerprint, address.dtype) if address else (facts.fingerprint, facts.dtype)
        return [(SERVED, served), (DTYPE, dtype)]

    def _spawn(self, work: Coroutine[Any, Any, Any]) -> asyncio.Task[Any]:
        task = asyncio.get_running_loop().create_task(work)
        self._tasks.add(task)
        task.add_done_callback(self._ended)
        return task

    def _tell(self, work: Coroutine[Any, Any, Any]) -> None:
        """What must be done also where the gateway ends."""
        self._telling.add(task := self._spawn(work))
        task.add_done_callback(self._telling.discard)

    def _ended(self, task: asyncio.Task[Any]) -> None:
        self._tasks.discard(task)
        if not task.cancelled() and (cause := task.exception()) is not None:
            logging.getLogger("raylm.gateway").error("work of the gateway failed", exc_info=cause)
