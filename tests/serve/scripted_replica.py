"""A replica without an engine: the HTTP interface of vLLM's streams with token ids, and faults on demand.

    control = Control(ControlSettings({"chat": Orders()}))
    async with ScriptedReplica("a", control, Script(ttft_s=0.01, token_s=0.001)) as replica:
        ...                         # registered with Control, beats, answers at replica.address
        replica.die()               # as kill -9 does: every connection is reset, nobody listens

What it says depends on the tokens before it alone, so an answer that another replica continues is the same answer.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

from raylm.serve.directory import Address, Load
from raylm.serve.engine.resume import RESUME, ids_of
from raylm.serve.engine.spans import SPANS, Mark, comment_of, header_of
from tests.serve.scripted_named import MESSAGES, RESPONSES, events_of

INNER = "x-raylm-inner"
GENERATES = ("/v1/completions", "/v1/chat/completions")


@dataclass
class Script:
    """How it behaves; may be changed while it runs."""

    ttft_s: float = 0.0
    token_s: float = 0.0
    """Seconds between two tokens."""
    dies_after: int | None = None
    """Tokens of an answer after which the whole process is gone; 0: before the first byte."""
    hangs_after: int | None = None
    """Tokens of an answer after which nothing comes any more."""
    refuses: tuple[int, str] | None = None
    """Status and code that every request is answered with."""
    holds_text: int = 0
    """Every so many tokens the text of one comes with the next, as vLLM does where a character is not whole."""
    capacity: int = 64
    """Requests at a time; further ones wait, as in an engine."""
    dies_saying: bool = False
    """Its engine dies before the first token, which it tells within the stream."""
    marks: tuple[int, Mark] | None = None
    """Tokens of an answer after which its weights are others, and what is said then."""


def next_token(ids: Sequence[int]) -> int:
    """The token after `ids`."""
    return (sum(ids) * 31 + len(ids) * 7) % 97 + 3


def expected(prompt: Any, count: int, before: int = 0) -> str:
    """The text of an answer of `count` tokens, less its first `before`."""
    ids = prompt_ids(prompt)
    start = len(ids)
    for _ in range(count):
        ids.append(next_token(ids))
    return "".join(f" {token}" for token in ids[start + before :])


def prompt_ids(prompt: Any) -> list[int]:
    """Tokens of a prompt: its own, or the bytes of a text; of messages, those of their JSON."""
    if isinstance(prompt, list) and all(isinstance(each, int) for each in prompt):
        return list(prompt)
    return list(prompt.encode() if isinstance(prompt, str) else json.dumps(prompt).encode())


@dataclass
class ScriptedReplica:
    """Serves as an async context manager; `control` may be None, and Control's handle or itself otherwise."""

    name: str
    control: Any = None
    script: Script = field(default_factory=Script)
    model: str = "chat"
    fingerprint: str = "f00d"
    adapters: tuple[str, ...] = ()
    lineage: dict[str, Any] = field(default_factory=dict)
    beat_s: float = 0.1
    port: int = 0
    max_len: int = 4096

    def __post_init__(self) -> None:
        self.seen: list[tuple[str, dict[str, Any], dict[str, str]]] = []
        """Path, body and headers of each request."""
        self.serves_all = False
        """Every path is answered with a count."""
        self.left = 0
        """Requests whose client went before the end."""
        self.running = 0
        self.most_running = 0
        self.dead = False
        self._beats: asyncio.Task[None] | None = None
        self._made = 0
        self._room = asyncio.Semaphore(self.script.capacity)

    async def __aenter__(self) -> ScriptedReplica:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Listen, and register."""
        self._server = web.Server(self._answer, handler_cancellation=True, access_log=None)
        loop = asyncio.get_running_loop()
        self._listening = await loop.create_server(self._server, "127.0.0.1", self.port, reuse_address=True)
        self.port = self._listening.sockets[0].getsockname()[1]
        self.dead = False
        self.address = Address(
            self.name, self.model, "127.0.0.1", self.port, f"secret-of-{self.name}", "node", self.fingerprint, "float32",
            self.max_len, self.adapters, (), self.lineage,
        )  # fmt: skip
        if self.control is not None:
            await self.control.register(self.address)
            self._beats = asyncio.create_task(self._beat())

    async def stop(self) -> None:
        """Leave, and end."""
        if self._beats:
            self._beats.cancel()
        if self.control is not None and not self.dead:
            await self.control.leave(self.name)
        self._cut()

    def die(self) -> None:
        """As kill -9 does."""
        self.dead = True
        if self._beats:
            self._beats.cancel()
        self._cut()

    def _cut(self) -> None:
        self._listening.close()
        for connection in self._server.connections:
            if connection.transport is not None:
                connection.transport.abort()

    @property
    def load(self) -> Load:
        """As it beats it."""
        capacity = self.script.capacity
        return Load(min(self.running, capacity), max(0, self.running - capacity), 0, min(1.0, self.running / capacity), 0.0, 0.0)

    async def _beat(self) -> None:
        while True:
            await asyncio.sleep(self.beat_s)
            if await self.control.beat(self.name, self.load) is None:
                await self.control.register(self.address)

    async def _answer(self, request: web.BaseRequest) -> web.StreamResponse:
        if request.headers.get(INNER) != self.address.secret:
            return web.Response(status=404)
        says = {"x-raylm-served": self.fingerprint, "x-raylm-dtype": "float32"}
        if request.path == "/health" and self.script.refuses:
            return web.Response(status=self.script.refuses[0], headers=says)
        if request.method == "GET":
            return self._page(request.path, says)
        body = json.loads(await request.content.read())
        self.seen.append((request.path, body, dict(request.headers)))
        if self.script.refuses:
            status, code = self.script.refuses
            told = {"error": {"message": "Refused.", "type": "x", "param": None, "code": code}}
            return web.json_response(told, status=status, headers=says)
        if request.path in (MESSAGES, RESPONSES) and body.get("stream"):
            return await self._named(request, body, says)
        if request.path not in GENERATES or self.serves_all:
            return web.json_response({"count": len(json.dumps(body)), "model": body.get("model")}, headers=says)
        self.running += 1
        self.most_running = max(self.most_running, self.running)
        try:
            async with self._room:
                return await self._generate(request, body, says)
        except (asyncio.CancelledError, ConnectionError):
            self.left += 1
            raise
        finally:
            self.running -= 1

    def _page(self, path: str, says: dict[str, str]) -> web.Response:
        if path == "/metrics":
            name = "vllm:num_requests_running"
            text = f'# HELP {name} Running.\n# TYPE {name} gauge\n{name}{{engine="0"}} {self.running}\n'
            return web.Response(text=text, headers=says)
        return web.json_response({"version": "scripted"} if path == "/version" else {}, headers=says)

    async def _generate(self, request: web.BaseRequest, body: dict[str, Any], says: dict[str, str]) -> web.StreamResponse:
        chat = request.path == "/v1/chat/completions"
        prompt = prompt_ids(body["messages"] if chat else body["prompt"])
        most = body.get("max_completion_tokens") or body.get("max_tokens") or (16 if not chat else self.max_len - len(prompt))
        self._made += 1
        answer = _Answer(f"{'chatcmpl' if chat else 'cmpl'}-{self.name}-{self._made}", chat, body, prompt)
        await asyncio.sleep(self.script.ttft_s)
        await self._fault(0)
        if not body.get("stream"):
            tokens = [answer.step() for _ in range(most)]
            says = {**says, SPANS: header_of([self.script.marks[1]])} if self.script.marks else says
            await asyncio.sleep(self.script.token_s * most)
            return web.json_response(answer.whole(tokens), headers=says)
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", **says})
        await response.prepare(request)
        if self.script.dies_saying:
            self.script.refuses = (503, "engine_restarting")
            await response.write(
                b'data: {"error": {"message": "x", "type": "y", "param": null, "code": "engine_restarting"}}\n\n'
            )
            return response
        if chat:
            await response.write(answer.role())
        held: list[int] = []
        for at in range(most):
            if at:
                await self._fault(at)
            if self.script.marks and self.script.marks[0] == at:
                await response.write(comment_of(self.script.marks[1]))
            held.append(answer.step())
            late = self.script.holds_text and at % self.script.holds_text == 0 and at + 1 < most
            await response.write(answer.event([held[-1]], [] if late else held, at + 1 == most))
            held = held if late else []
            if self.script.token_s:
                await asyncio.sleep(self.script.token_s)
        await response.write(answer.last())
        return response

    async def _named(self, request: web.BaseRequest, body: dict[str, Any], says: dict[str, str]) -> web.StreamResponse:
        """A stream of events with names; of an answer that goes on, what it was given too."""
        prompt = prompt_ids(body["messages"] if request.path == MESSAGES else body["input"])
        ids = list(ids_of(request.headers.get(RESUME, "").encode()))
        given = len(ids)
        while len(ids) < (body.get("max_tokens") or body["max_output_tokens"]):
            ids.append(next_token([*prompt, *ids]))
        response = web.StreamResponse(headers={"content-type": "text/event-stream; charset=utf-8", **says})
        await response.prepare(request)
        made = -given
        for event in events_of(request.path, self.name, self.model, len(prompt), ids):
            if b"raylm-tokens" in event:
                # faults count what it makes itself
                await self._fault(made) if made >= 0 else None
                made += 1
            await response.write(event)
            await asyncio.sleep(self.script.token_s)
        return response

    async def _fault(self, at: int) -> None:
        if self.script.dies_after == at:
            self.die()
        if at in (self.script.dies_after, self.script.hangs_after):
            # until the connection is lost
            await asyncio.sleep(3600)


class _Answer:
    """One answer in vLLM's words."""

    def __init__(self, number: str, chat: bool, body: dict[str, Any], prompt: list[int]) -> None:
        self._chat, self._body, self._prompt, self._ids = chat, body, prompt, list(prompt)
        kind = ("chat.completion.chunk" if body.get("stream") else "chat.completion") if chat else "text_completion"
        self._head = {"id": number, "object": kind, "created": 1_700_000_000, "model": body["model"]}
        self._wants_ids = bool(body.get("return_token_ids"))

    def step(self) -> int:
        self._ids.append(next_token(self._ids))
        return self._ids[-1]

    def role(self) -> bytes:
        choice = {"index": 0, "delta": {"role": "assistant", "content": ""}, "logprobs": None, "finish_reason": None}
        return self._event({"choices": [choice], **({"prompt_token_ids": self._prompt} if self._wants_ids else {})})

    def event(self, ids: list[int], shown: list[int], last: bool) -> bytes:
        text = "".join(f" {token}" for token in shown)
        said: dict[str, Any] = {"delta": {"content": text}} if self._chat else {"text": text}
        choice = {"index": 0, **said, "logprobs": None, "finish_reason": "length" if last else None}
        if self._wants_ids:
            choice["token_ids"] = ids
            if not self._chat:
                choice["prompt_token_ids"] = self._prompt if len(self._ids) == len(self._prompt) + 1 else None
        return self._event({"choices": [choice]})

    def last(self) -> bytes:
        options = self._body.get("stream_options") or {}
        usage = self._event({"choices": [], "usage": self._usage()}) if options.get("include_usage") else b""
        return usage + b"data: [DONE]\n\n"

    def whole(self, ids: list[int]) -> dict[str, Any]:
        text = "".join(f" {token}" for token in ids)
        said: dict[str, Any] = {"message": {"role": "assistant", "content": text}} if self._chat else {"text": text}
        return {
            **self._head,
            "choices": [
                {
                    "index": 0,
                    **said,
                    "logprobs": None,
                    "finish_reason": "length",
                    **({"token_ids": ids} if self._wants_ids else {}),
                }
            ],
            "usage": self._usage(),
        }

    def _usage(self) -> dict[str, int]:
        made = len(self._ids) - len(self._prompt)
        return {"prompt_tokens": len(self._prompt), "total_tokens": len(self._ids), "completion_tokens": made}

    def _event(self, fields: dict[str, Any]) -> bytes:
        return b"data: " + json.dumps({**self._head, **fields}, separators=(",", ":")).encode() + b"\n\n"
