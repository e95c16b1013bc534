"""The app of a replica around a tiny engine, both in this process, behind its door and a gateway: for what needs no cluster."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import socket
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from raylm.inference.engine import build_engine, set_environment
from raylm.serve.api import tasks
from raylm.serve.api.models import card
from raylm.serve.api.openai_app import Families, ServingApp, serving_app
from raylm.serve.config import Limits
from raylm.serve.control import Control, ControlSettings
from raylm.serve.directory import BEAT_S, Address, Load, Orders
from raylm.serve.engine.adapter_check import modules_of
from raylm.serve.engine.inner import DTYPE, SERVED, InnerDoor
from raylm.serve.engine.resume import follow
from raylm.serve.gateway.gateway import Gateway
from raylm.serve.gateway.settings import GatewaySettings, ModelFacts
from raylm.serve.keys import key_digest
from raylm.serve.served_model import LoraSettings
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
from tests.model.tiny import tiny_model, tiny_tokenizer
from tests.serve.gateway.running import Direct

KEY = "the-key-of-this-test"
LINEAGE = {"fingerprint": "f00d", "job": "quickstart", "created": 1}
THINKS = CHAT_TEMPLATE.replace(
    "{{ '<|assistant|>' }}{% endif %}",
    "{{ '<|assistant|>' }}"
    "{% if enable_thinking is defined and not enable_thinking %}{{ '<think></think>' }}{% endif %}{% endif %}",
)


def write_checkpoint(folder: Path) -> Path:
    """A tiny model that chats, calls tools, and has tokens for thoughts."""
    tokenizer = tiny_tokenizer()
    tokenizer.add_special_tokens({"additional_special_tokens": ["<|user|>", "<|assistant|>", "<|system|>"]})
    tokenizer.add_tokens(["<think>", "</think>"])
    tokenizer.chat_template = THINKS
    tiny_model(vocab=len(tokenizer)).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


class Running(NamedTuple):
    """What answers. `thinks`: the same with the model's thoughts read."""

    url: str
    thinks: str
    served: ServingApp
    engine: Any
    loop: asyncio.AbstractEventLoop
    model: Path
    behind: list[tuple[Control, Address]]

    def have(self, *adapters: str) -> None:
        """Tell the gateways that the replica has these, as it does itself when they are loaded."""
        for control, address in self.behind:
            self.call(control.register(address._replace(adapters=adapters)))
        names, until = {"raylm", *adapters}, time.monotonic() + 10
        while {each["id"] for each in json.loads(ask(self.url, "/v1/models")[1])["data"]} != names:
            assert time.monotonic() < until
            time.sleep(0.02)

    def call(self, coroutine: Any) -> Any:
        """The result of a coroutine that runs where the engine does."""
        return asyncio.run_coroutine_threadsafe(coroutine, self.loop).result(120)


@contextlib.contextmanager
def running(model: Path, task: str = tasks.TEXT, reasoning: str = "", **options: Any) -> Iterator[Running]:
    """The app around an engine of its own, on ports of loopback.

    Args:
        reasoning: vLLM's parser of thoughts that the engine is told of.
    """
    import uvicorn

    set_environment(gpu=False)
    lora = LoraSettings(most=2, max_rank=8) if task == tasks.TEXT else None
    engine = build_engine(
        str(model),
        dtype="float32",
        max_len=None,
        gpu=False,
        memory_share=0.5,
        served_model_name=["raylm"],
        max_logprobs=Limits().num_logprobs,
        structured_outputs_config={"backend": "guidance", "disable_any_whitespace": True, "reasoning_parser": reasoning},
        **{"own_process": False, **tasks.engine_options(task, lora, modules_of(str(model)) if lora else ()), **options},
    )
    follow(engine)
    families = Families.of(str(model), task)
    made: list[tuple[int, ServingApp]] = []
    loop, ready, servers = asyncio.new_event_loop(), threading.Event(), list[Any]()

    async def serve() -> None:
        for each in (families._replace(reasoning=""), families):
            served = await serving_app(
                engine, each.arguments("raylm"), each, Limits(), lambda: [card("raylm", 512, LINEAGE)], task
            )
            says = {SERVED: "f00d", DTYPE: "float32"}
            door = InnerDoor(served.app, "inner", says, Limits().body_bytes, served.check, lambda: engine.errored)
            listening = socket.create_server(("127.0.0.1", 0))
            servers.append(uvicorn.Server(uvicorn.Config(door, log_level="error", lifespan="off")))
            running.append(asyncio.ensure_future(servers[-1].serve([listening])))
            control, length = Control(ControlSettings({"raylm": Orders()})), engine.model_config.max_model_len
            at = listening.getsockname()[1]
            replica = Address("r", "raylm", "127.0.0.1", at, "inner", "", "f00d", "float32", length, (), (), LINEAGE)
            await control.register(replica)
            behind.append((control, replica))
            gateways.append(Gateway(settings, Direct(control)))
            made.append((await gateways[-1].start(), served))
        ready.set()
        beating = asyncio.ensure_future(beat())
        await asyncio.gather(*running)
        beating.cancel()
        for gateway in gateways:
            await gateway.drain(0.0)

    async def beat() -> None:
        while True:
            for control, address in behind:
                await control.beat(address.replica, Load())
            await asyncio.sleep(BEAT_S)

    running, gateways, behind = list[Any](), list[Gateway](), list[tuple[Control, Address]]()
    settings = GatewaySettings("127.0.0.1", 0, (ModelFacts("raylm", "model"),), key_digest=key_digest(KEY))
    failed: list[BaseException] = []

    def turn() -> None:
        try:
            loop.run_until_complete(serve())
        finally:
            failed.extend([cause] if (cause := sys.exception()) else [])
            ready.set()

    thread = threading.Thread(target=turn, daemon=True)
    thread.start()
    assert ready.wait(120) and not failed, failed
    try:
        (first, served), (second, _) = made
        yield Running(f"http://127.0.0.1:{first}/v1", f"http://127.0.0.1:{second}/v1", served, engine, loop, model, behind)
    finally:
        for server in servers:
            server.should_exit = True
        thread.join(30)
        engine.shutdown()


def answers(model: Path, task: str, requests: list[tuple[str, Any]], reasoning: str = "") -> list[tuple[int, Any]]:
    """Status and JSON of requests to an engine in another process: two engines in one do not go well together."""
    command = [sys.executable, "-m", __name__, str(model), task, reasoning]
    done = subprocess.run(command, input=json.dumps(requests), capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    return [(status, json.loads(text)) for status, text in json.loads(done.stdout.splitlines()[-1])]


def ask(url: str, path: str, body: Any = None, key: str = KEY, method: str | None = None) -> tuple[int, str]:
    """Status and text of a plain HTTP request."""
    headers = {"content-type": "application/json", "authorization": f"Bearer {key}"}
    data = json.dumps(body).encode() if body is not None else None
    request = urllib.request.Request(url.removesuffix("/v1") + path, headers=headers, data=data, method=method)
    try:
        with urllib.request.urlopen(request, timeout=60) as reply:
            return reply.status, reply.read().decode()
    except urllib.error.HTTPError as refusal:
        return refusal.code, refusal.read().decode()


if __name__ == "__main__":
    with running(Path(sys.argv[1]), *sys.argv[2:]) as made:
        found = [ask(made.thinks, path, body) for path, body in json.load(sys.stdin)]
    print(json.dumps(found), flush=True)
    # an engine core that is a thread may hold up the end of its process
    os._exit(0)
