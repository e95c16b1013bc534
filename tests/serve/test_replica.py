"""One real replica: what it tells Control when its engine is killed, hangs, is full, and when it is ended."""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import threading
import time

import pytest

from raylm.core.errors import StageError
from raylm.inference.config import EngineSettings
from raylm.model.load import load_tokenizer
from raylm.serve.config import Limits
from raylm.serve.control import Control, ControlSettings
from raylm.serve.directory import Orders, WeightsOrder
from raylm.serve.engine.app import Served
from raylm.serve.replica import Replica
from raylm.tokenize.trainers.layout import CHAT_TEMPLATE
from tests.model.tiny import tiny_checkpoint

pytestmark = [pytest.mark.vllm, pytest.mark.slow]
LENGTH = 2000
LONG = {"prompt": [5, 6, 7], "max_tokens": LENGTH, "temperature": 0, "ignore_eos": True}
# about 4,000 tokens: two long answers fill it
SETTINGS = EngineSettings(kv_cache_gb=0.004, hang_s=3.0)


class Handle:
    """Control as a replica has it, which keeps what it was told."""

    def __init__(self) -> None:
        self.control, self.told, self.loads = Control(ControlSettings({"m": Orders()})), [], []

    def __getattr__(self, name):
        def remote(*args):
            if name == "beat":
                self.loads.append(args[1])
            else:
                self.told.append((name, args[1:] if name in ("unready", "exchanged") else ()))
            return getattr(self.control, name)(*args)

        return type("Method", (), {"remote": staticmethod(remote)})


class Endpoint:
    """A replica and its Control on an event loop of their own, as Serve has it."""

    def __init__(self, folder: str) -> None:
        self.loop, self.handle = asyncio.new_event_loop(), Handle()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.served = Served(folder, "f00d", "m", "auto", None, False, 0.85, Limits(), SETTINGS)
        self.replica = object.__new__(Replica)
        self.run(self.replica.__init__(self.served, self.handle, 10.0, "127.0.0.1", os.getpid()))

    def run(self, call):
        return asyncio.run_coroutine_threadsafe(call, self.loop).result(120)

    def row(self):
        (row,) = self.run(self.handle.control.view()).replicas
        return row

    def state(self, wanted, seconds=60.0):
        until = time.monotonic() + seconds
        while (row := self.row()).state != wanted:
            assert time.monotonic() < until, f"it is {row.state}: {row.why}"
            time.sleep(0.02)
        return row

    def processes(self):
        """Of the engine's server, and its core."""
        import psutil

        server = psutil.Process(self.run(self.replica.facts())["pid"])
        return [server, *(each for each in server.children() if "resource_tracker" not in " ".join(each.cmdline()))]

    async def ask(self, fields=LONG, leave_s=None, path="/v1/completions"):
        """Status and text of an answer."""
        import aiohttp

        address = (await self.handle.control.view()).replicas[0].address
        timeout = aiohttp.ClientTimeout(total=leave_s or 100)
        async with aiohttp.ClientSession(f"http://{address.host}:{address.port}", timeout=timeout) as session:
            asked = session.post(path, json={"model": "m", **fields}, headers={"x-raylm-inner": address.secret})
            async with asked as answer:
                return answer.status, await answer.text()

    def asking(self, *requests):
        """Requests that are under way when this returns."""
        asked = [asyncio.run_coroutine_threadsafe(self.ask(each), self.loop) for each in requests]
        until = time.monotonic() + 30
        while (self.row().load.running or 0) < min(len(requests), 2) and not any(each.done() for each in asked):
            assert time.monotonic() < until
            time.sleep(0.02)
        return asked


@pytest.fixture(scope="module")
def endpoint(tmp_path_factory):
    folder = write(tmp_path_factory.mktemp("model") / "sft", 0)
    made = Endpoint(folder)
    yield made
    if (ending := made.replica.__del__()) is not None:
        made.run(ending)


def write(folder, seed):
    made = tiny_checkpoint(str(folder), seed=seed, max_len=2048)
    tokenizer = load_tokenizer(str(made))
    tokenizer.chat_template = CHAT_TEMPLATE
    tokenizer.save_pretrained(made)
    return str(made)


def gone(processes, seconds=20.0):
    import psutil

    _, alive = psutil.wait_procs(processes, timeout=seconds)
    return not [each for each in alive if each.is_running() and each.status() != psutil.STATUS_ZOMBIE]


def test_ready_means_that_it_answers(endpoint):
    assert endpoint.handle.told[:2] == [("orders", ()), ("register", ())]
    status, text = endpoint.run(endpoint.ask({**LONG, "max_tokens": 3}))
    assert (status, json.loads(text)["usage"]["completion_tokens"]) == (200, 3)
    address = endpoint.row().address
    assert (address.fingerprint, address.dtype, address.max_len) == ("f00d", "float32", 2048)
    assert {"/v1/chat/completions", "/tokenize"} <= set(address.routes) and "/pause" not in address.routes
    assert set(endpoint.run(endpoint.replica.facts())["phases"]) >= {"process", "fetch", "engine", "app", "probe"}


def test_a_full_cache_lets_requests_wait_and_fails_none(endpoint):
    asked, loads = endpoint.asking(*[LONG] * 4), endpoint.handle.loads
    until = time.monotonic() + 120
    # an engine may be done with four of them between two beats
    while not (any(load.waiting for load in loads) and any((load.kv_use or 0) > 0.5 for load in loads)):
        assert time.monotonic() < until, loads
        if all(each.done() for each in asked):
            asked += endpoint.asking(*[LONG] * 4)
        time.sleep(0.05)
    assert {json.loads(each.result()[1])["usage"]["completion_tokens"] for each in asked} == {LENGTH}
    assert endpoint.state("ready").why == ""
    until = time.monotonic() + 5
    while (load := endpoint.row().load)[:4] != (0, 0, 0, 0.0):
        assert time.monotonic() < until, load
        time.sleep(0.05)
    # of the last seconds, which a busy machine may need to answer the rest
    assert any(load.ttft_s and load.tokens_s for load in loads)


def test_a_client_that_leaves_frees_the_engine(endpoint):
    with pytest.raises(TimeoutError):
        endpoint.run(endpoint.ask(leave_s=0.15))
    until = time.monotonic() + 20
    while endpoint.row().load.running != 0:
        assert time.monotonic() < until
        time.sleep(0.02)


def fingerprint(endpoint, wanted, seconds=60):
    until = time.monotonic() + seconds
    while endpoint.row().address.fingerprint != wanted:
        assert endpoint.row().state == "ready"
        assert time.monotonic() < until
        time.sleep(0.02)


def test_other_weights_come_in_place_or_in_another_process_and_fail_nothing(endpoint, tmp_path):
    words = {"prompt": [5, 6, 7], "max_tokens": 8, "temperature": 0}

    def says():
        return json.loads(endpoint.run(endpoint.ask(words))[1])["choices"][0]["text"]

    first, other = says(), write(tmp_path / "other", 1)
    counted = {**LONG, "stream": True, "stream_options": {"include_usage": True}}
    (asked,) = endpoint.asking(counted)
    endpoint.run(endpoint.handle.control.order_weights("m", WeightsOrder(other, "beef", (), True)))
    fingerprint(endpoint, "beef")
    status, text = asked.result(60)
    assert status == 200 and '"error"' not in text and f'"completion_tokens":{LENGTH}' in text
    second = says()
    assert second != first
    server, core = endpoint.processes()
    # weights that are no such network change nothing
    endpoint.run(endpoint.handle.control.order_weights("m", WeightsOrder(str(tmp_path), "bad", (), True)))
    time.sleep(1.5)
    assert endpoint.row().address.fingerprint == "beef" and says() == second
    (took, no, figures), (refused, why, _) = (args for name, args in endpoint.handle.told if name == "exchanged")
    assert (took, no, refused) == ("beef", "", "bad") and figures["held_s"] > 0 and why
    # back in a process of its own: what is under way ends in the one before
    (asked,) = endpoint.asking(counted)
    endpoint.run(endpoint.handle.control.order_weights("m", WeightsOrder(endpoint.served.model, "f00d")))
    fingerprint(endpoint, "f00d")
    status, text = asked.result(60)
    assert status == 200 and '"error"' not in text and f'"completion_tokens":{LENGTH}' in text
    assert says() == first
    assert gone([server, core])
    assert "unready" not in [name for name, _ in endpoint.handle.told]


def test_a_killed_engine_is_told_at_once_and_started_again_in_place(endpoint):
    server, core = endpoint.processes()
    before, stream = endpoint.row().address, {**LONG, "stream": True}
    asked = endpoint.asking(LONG, stream)
    endpoint.handle.told.clear()
    core.kill()
    whole, streamed = (each.result(30) for each in asked)
    assert (whole[0], json.loads(whole[1])["error"]["code"]) == (503, "engine_restarting")
    events = [line for line in streamed[1].splitlines() if line.startswith("data: ")]
    assert json.loads(events[-2].removeprefix("data: "))["error"]["code"] == "engine_restarting"
    endpoint.state("ready")
    # told before anybody asked, and entered again under the same name
    assert [name for name, _ in endpoint.handle.told] == ["unready", "register"]
    assert f"pid {core.pid}" in endpoint.handle.told[0][1][0]
    after = endpoint.row().address
    assert after.replica == before.replica and after.secret != before.secret
    assert endpoint.run(endpoint.ask({**LONG, "max_tokens": 3}))[0] == 200
    assert gone([server, core])


def test_an_engine_that_hangs_is_ended_and_started_again(endpoint):
    import aiohttp

    server, core = endpoint.processes()
    (asked,) = endpoint.asking(LONG)
    endpoint.handle.told.clear()

    async def come_and_leave():
        while True:
            with contextlib.suppress(aiohttp.ClientError, TimeoutError):
                await endpoint.ask({**LONG, "max_tokens": 3}, leave_s=0.5)
            await asyncio.sleep(0.05)

    # requests that still come, and leave, are no sign of it
    coming = asyncio.run_coroutine_threadsafe(come_and_leave(), endpoint.loop)
    core.send_signal(signal.SIGSTOP)
    endpoint.state("unready")
    coming.cancel()
    endpoint.state("ready")
    assert "computes nothing" in endpoint.handle.told[0][1][0]
    # the connection broke: a gateway goes on elsewhere with what it sent
    with pytest.raises(aiohttp.ClientError):
        asked.result(30)
    assert endpoint.run(endpoint.ask({**LONG, "max_tokens": 3}))[0] == 200
    assert gone([server, core])


def test_a_server_process_that_is_killed_takes_its_engine_with_it_and_comes_again(endpoint):
    server, core = endpoint.processes()
    endpoint.handle.told.clear()
    server.kill()
    endpoint.state("unready")
    endpoint.state("ready")
    assert endpoint.handle.told[0] == ("unready", ("the engine's process ended",))
    assert gone([server, core])


def test_control_that_was_lost_is_told_again(endpoint):
    endpoint.handle.control = Control(ControlSettings({"m": Orders()}))
    until = time.monotonic() + 10
    while not endpoint.run(endpoint.handle.control.view()).replicas:
        assert time.monotonic() < until
        time.sleep(0.02)
    assert endpoint.state("ready").address.fingerprint == "f00d"


def test_an_engine_whose_replica_ended_ends_at_once_and_one_that_is_lost_too_often_is_left_to_serve(endpoint):
    import aiohttp

    assert endpoint.run(endpoint.replica.check_health()) is None
    assert len(endpoint.replica._losses) == 3
    server, core = endpoint.processes()
    address, (asked,) = endpoint.row().address, endpoint.asking(LONG)
    lifeline = socket.create_connection((address.host, address.port))
    # the link ends, as it does when the replica is killed
    with socket.socket(fileno=os.dup(endpoint.replica._process._link.fileno())) as link:
        link.shutdown(socket.SHUT_RDWR)
    lifeline.settimeout(60)
    assert lifeline.recv(1) == b""
    # who had a connection has lost it, and nobody gets another: not even where its engine core is still there
    with pytest.raises(ConnectionRefusedError):
        socket.create_connection((address.host, address.port))
    with pytest.raises(aiohttp.ClientError):
        asked.result(60)
    assert gone([server, core], 60)
    endpoint.state("unready")
    until = time.monotonic() + 60
    while not endpoint.replica._given_up:
        assert time.monotonic() < until
        time.sleep(0.02)
    with pytest.raises(RuntimeError, match=r"lost 4 times in 600 s, last: the engine's process ended") as raised:
        endpoint.run(endpoint.replica.check_health())
    # what Serve's controller reads brings no class of vLLM along
    assert type(raised.value) is RuntimeError and raised.value.__cause__ is None and raised.value.__context__ is None


def test_ended_it_finishes_what_is_under_way_and_leaves_nothing_behind(endpoint):
    endpoint.replica = object.__new__(Replica)
    endpoint.run(endpoint.replica.__init__(endpoint.served, endpoint.handle, 10.0, "127.0.0.1", os.getpid()))
    processes = endpoint.processes()
    endpoint.handle.control = Control(ControlSettings({"m": Orders()}))
    until = time.monotonic() + 10
    while not endpoint.run(endpoint.handle.control.view()).replicas:
        assert time.monotonic() < until
        time.sleep(0.02)
    # enough to be under way, and few enough for its 10 seconds on a busy machine
    (asked,) = endpoint.asking({**LONG, "max_tokens": LENGTH // 4})
    endpoint.handle.told.clear()
    endpoint.run(endpoint.replica.__del__())
    assert [name for name, _ in endpoint.handle.told if name != "unready"] == ["drain", "leave"]
    assert json.loads(asked.result(10)[1])["usage"]["completion_tokens"] == LENGTH // 4
    assert gone(processes)


def test_a_checkpoint_that_cannot_be_served_says_why(endpoint, tmp_path):
    broken = Replica.__init__(
        object.__new__(Replica), endpoint.served._replace(model=str(tmp_path)), endpoint.handle, 1.0, "127.0.0.1", os.getpid()
    )
    with pytest.raises(StageError, match="tokenizer"):
        endpoint.run(broken)
