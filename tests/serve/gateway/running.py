"""A gateway with scripted replicas behind it, in one event loop: no Ray, no engine."""

from __future__ import annotations

import asyncio
import contextlib
import json
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import aiohttp

from raylm.serve.config import GatewaySpec
from raylm.serve.control import Control, ControlSettings
from raylm.serve.directory import Orders, View
from raylm.serve.gateway.gateway import Gateway
from raylm.serve.gateway.settings import GatewaySettings, ModelFacts
from raylm.serve.guards.guard import Admission, Visit
from raylm.serve.updates.rollout import Told
from tests.serve.scripted_replica import Script, ScriptedReplica

CHAT, COMPLETIONS = "/v1/chat/completions", "/v1/completions"


class Direct:
    """Steering without Serve: Control in this loop. `gone` plays its death."""

    def __init__(self, control: Control) -> None:
        self.control, self.gone = control, False
        self.woken: list[str] = []
        self.on_wake: Any = None

    async def changes(self, version: int, timeout_s: float, gateway: str, held: dict[str, int]) -> View | None:
        if self.gone:
            raise ConnectionError("Control is gone")
        return await self.control.changes(version, min(timeout_s, 0.05), gateway, held)

    async def admit(self, visit: Visit) -> Admission:
        if self.gone:
            raise ConnectionError("Control is gone")
        return await self.control.admit(visit)

    async def finish(self, visit: Visit, tokens: int) -> None:
        await self.control.finish(visit, tokens)

    async def tally(self, gateway: str, told: Told) -> None:
        await self.control.tally(gateway, told)

    async def wake(self, model: ModelFacts) -> None:
        self.woken.append(model.name)
        if self.on_wake is not None:
            await self.on_wake(model.name)


class Running(NamedTuple):
    """What a test holds."""

    url: str
    port: int
    session: aiohttp.ClientSession
    gateway: Gateway
    control: Control
    steering: Direct
    replicas: list[ScriptedReplica]

    async def ask(self, path: str, body: Any = None, **headers: str) -> tuple[int, dict[str, str], bytes]:
        """Status, headers and body; headers are given as x_request_id."""
        said = {"content-type": "application/json", **headers}
        said = {name.replace("_", "-"): value for name, value in said.items()}
        data = body if isinstance(body, (bytes, type(None))) else json.dumps(body).encode()
        async with self.session.request("GET" if body is None else "POST", self.url + path, data=data, headers=said) as answer:
            return answer.status, {name.lower(): value for name, value in answer.headers.items()}, await answer.read()

    async def stream(self, path: str, body: dict[str, Any], **headers: str) -> list[Any]:
        """Events of a stream as JSON; "[DONE]" as it is."""
        status, _, text = await self.ask(path, {"model": "chat", "stream": True, **body}, **headers)
        assert status == 200, text
        return events(text)


def events(text: bytes) -> list[Any]:
    """Of a whole stream."""
    parts = [part.removeprefix(b"data: ").decode() for part in text.split(b"\n\n") if part.startswith(b"data: ")]
    return [part if part == "[DONE]" else json.loads(part) for part in parts]


def said(told: list[Any]) -> str:
    """The text of all events."""
    choices = [each["choices"][0] for each in told if isinstance(each, dict) and each.get("choices")]
    return "".join(choice["text"] if "text" in choice else choice["delta"].get("content") or "" for choice in choices)


def error(body: bytes) -> dict[str, Any]:
    """What an envelope says."""
    inner = json.loads(body)["error"]
    assert set(inner) == {"message", "type", "param", "code"}
    return inner


@contextlib.asynccontextmanager
async def running(
    *scripts: Script,
    models: tuple[ModelFacts, ...] = (),
    spec: GatewaySpec | None = None,
    names: tuple[str, ...] = (),
    **options: Any,
) -> AsyncIterator[Running]:
    """A gateway, and a replica for each script, of the models `names` in turn ("chat" where there are none)."""
    models = models or (ModelFacts("chat", "model-chat", "f00d", "float32"),)
    control = Control(ControlSettings({model.name: Orders() for model in models}, guards=options.pop("control_guards", ())))
    control._began -= 60  # replicas have had their time to come again
    steering = Direct(control)
    replicas = [
        ScriptedReplica(f"r{at}", control, script, (names or ("chat",))[at % max(1, len(names))])
        for at, script in enumerate(scripts)
    ]
    settings = GatewaySettings("127.0.0.1", 0, models, spec or GatewaySpec(hold_s=5.0), **options)
    gateway = Gateway(settings, steering)
    async with contextlib.AsyncExitStack() as stack:
        for replica in replicas:
            await stack.enter_async_context(replica)
        port = await gateway.start()
        stack.push_async_callback(gateway.drain, 0.0)
        session = await stack.enter_async_context(aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)))
        await until(lambda: len(gateway._dispatch.view.replicas) == len(replicas))
        yield Running(f"http://127.0.0.1:{port}", port, session, gateway, control, steering, replicas)


async def until(true: Any, seconds: float = 5.0) -> None:
    """Wait for a condition."""
    async with asyncio.timeout(seconds):
        while not true():
            await asyncio.sleep(0.005)


async def raw(port: int, *parts: bytes, pause_s: float = 0.0) -> bytes:
    """What comes back for bytes that no HTTP library would send."""
    reader, writer = await asyncio.open_connection("127.0.0.1", port)
    try:
        for part in parts:
            writer.write(part)
            await writer.drain()
            await asyncio.sleep(pause_s)
        return await asyncio.wait_for(reader.read(), 10)
    except ConnectionError:
        return b""
    finally:
        writer.close()


async def plain(
    port: int, method: str, path: str, *headers: tuple[str, str], body: bytes = b""
) -> tuple[int, dict[str, str], bytes]:
    """Status, headers and body of one request on a connection of its own; nothing is made nicer on the way."""
    said = [("host", "x"), ("connection", "close"), *headers]
    said += [("content-length", str(len(body)))] if body or method == "POST" else []
    head = f"{method} {path} HTTP/1.1\r\n" + "".join(f"{name}: {value}\r\n" for name, value in said)
    return answer_of(await raw(port, head.encode() + b"\r\n" + body))


def answer_of(text: bytes) -> tuple[int, dict[str, str], bytes]:
    """The first answer in what came back."""
    head, _, body = text.partition(b"\r\n\r\n")
    first, *lines = head.decode().split("\r\n")
    return int(first.split()[1]), {line.split(": ")[0].lower(): line.split(": ", 1)[1] for line in lines}, body
