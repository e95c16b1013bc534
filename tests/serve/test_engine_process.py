"""An engine's process as its replica holds it, without an engine."""

from __future__ import annotations

import asyncio
import logging
import socket
import subprocess
import time
from types import SimpleNamespace
from typing import Any

import pytest

from raylm.inference.zygote import Child
from raylm.serve import replica as replica_file
from raylm.serve.directory import Load, Orders
from raylm.serve.engine_process import EngineProcess
from raylm.serve.link import Exchanged, Lost
from raylm.serve.replica import Replica


def held(pid):
    ours, theirs = socket.socketpair()
    lease, _ = socket.socketpair()
    return EngineProcess(Child(pid, ours, lease), "s3cret"), theirs


def test_a_process_that_was_ended_is_ended_once():
    async def run():
        with subprocess.Popen(["sleep", "60"]) as first, subprocess.Popen(["sleep", "60"]) as other:
            one, _ = held(first.pid)
            one.kill()
            first.wait(10)
            # its pid is another process's by now
            one.pid, began = other.pid, time.monotonic()
            assert await one.drain(30) == 0 and time.monotonic() - began < 10
            assert other.poll() is None
            other.kill()

    asyncio.run(run())


def test_a_loss_is_told_once():
    async def run():
        with subprocess.Popen(["sleep", "60"]) as process:
            one, _ = held(process.pid)
            one._gone()
            one.give_up("it says nothing")
            assert (await one.lost) == Lost("the engine's process ended", ends=True)
            process.kill()

    asyncio.run(run())


def test_serve_hears_of_a_replica_that_nobody_keeps_alive_any_more():
    async def fails():
        raise EOFError("a link that is no link")

    async def run():
        one = object.__new__(Replica)
        one._given_up, one._ended = "", False
        one._tasks = [asyncio.create_task(asyncio.sleep(60)), asyncio.create_task(fails())]
        await one.check_health() if not one._tasks[1].done() else None
        await asyncio.sleep(0)
        with pytest.raises(RuntimeError, match="EOFError: a link that is no link"):
            await one.check_health()
        # one that ends on purpose has ended these
        one._ended = True
        await one.check_health()

    asyncio.run(run())


class Deaf:
    """Control, which does not hear the first time."""

    def __init__(self):
        self.heard = []

    def __getattr__(self, name):
        async def remote(*args):
            self.heard.append((name, args[1:]))
            if [each for each, _ in self.heard].count(name) == 1:
                raise TimeoutError
            return Orders()

        return SimpleNamespace(remote=remote)


def test_what_became_of_weights_is_told_until_control_hears(monkeypatch):
    monkeypatch.setattr(replica_file, "BEAT_S", 0.005)

    async def run():
        one: Any = object.__new__(Replica)
        control = Deaf()
        one._control, one._name, one._state, one._log = control, "m-1", "ready", logging.getLogger("ray.serve")
        one._leaving, one._orders, one._ended = None, Orders(), True
        one._served = SimpleNamespace(engine=SimpleNamespace(hang_s=60.0))
        one._process = SimpleNamespace(
            lost=asyncio.get_running_loop().create_future(), heard_s=time.monotonic(), load=Load(), changed=asyncio.Event(),
            exchanged=[Exchanged("f00d", "they are not what they are said to be"), Exchanged("ne37")],
            ready=asyncio.get_running_loop().create_future(),
        )  # fmt: skip
        beating = asyncio.create_task(one._beat())
        async with asyncio.timeout(5):
            while one._process.exchanged:
                await asyncio.sleep(0.005)
        beating.cancel()
        assert [args[0] for name, args in control.heard if name == "exchanged"] == ["f00d", "f00d", "ne37"]

    asyncio.run(run())


def test_the_end_waits_for_a_process_that_made_room_too():
    async def run():
        one: Any = object.__new__(Replica)
        ended = []

        async def drain(seconds):
            return 0

        async def leaves():
            await asyncio.sleep(0.02)
            ended.append(True)

        one._control, one._name, one._log = Deaf(), "m-1", logging.getLogger("ray.serve")
        one._tasks, one._renewing, one._drain_s = [], None, 1.0
        one._process, one._ending, one._ended = SimpleNamespace(drain=drain), set(), True
        one._end_later(leaves())
        await one._end()
        assert ended

    asyncio.run(run())
