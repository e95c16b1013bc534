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
from raylm.serve.engine.link import Exchanged, Lost, Ready
from raylm.serve.engine.process import EngineProcess
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


def beating(control):
    """A replica that only beats."""
    one: Any = object.__new__(Replica)
    one._control, one._name, one._log = control, "m-1", logging.getLogger("ray.serve")
    one._leaving, one._orders, one._ended, one._state, one._untold = None, Orders(), True, "ready", ""
    one._served = SimpleNamespace(engine=SimpleNamespace(hang_s=7200.0))
    future = asyncio.get_running_loop().create_future
    one._process = SimpleNamespace(
        lost=future(), heard_s=time.monotonic() + 3600, load=Load(), changed=asyncio.Event(), exchanged=[], ready=future()
    )
    return one


async def beaten(one, until):
    """Beat until something is so."""
    task = asyncio.create_task(one._beat())
    # the first look for Ray imports it
    async with asyncio.timeout(60):
        while not until():
            await asyncio.sleep(0.002)
    task.cancel()


def test_what_became_of_weights_is_told_until_control_hears(monkeypatch):
    monkeypatch.setattr(replica_file, "BEAT_S", 0.005)

    async def run():
        one = beating(control := Deaf())
        one._process.exchanged = [Exchanged("f00d", "they are not what they are said to be"), Exchanged("ne37")]
        await beaten(one, lambda: not one._process.exchanged)
        assert [args[0] for name, args in control.heard if name == "exchanged"] == ["f00d", "f00d", "ne37"]

    asyncio.run(run())


def test_ready_and_unready_are_told_until_control_hears(monkeypatch):
    monkeypatch.setattr(replica_file, "BEAT_S", 0.005)

    async def run():
        one = beating(control := Deaf())
        one._process.heard_s = time.monotonic() - 10
        await beaten(one, lambda: [name for name, _ in control.heard].count("unready") == 2)
        one._process.heard_s = time.monotonic() + 3600
        await beaten(one, lambda: [name for name, _ in control.heard].count("ready") == 2)
        await beaten(one, lambda: [name for name, _ in control.heard].count("beat") > 4)
        # heard once, each is told no more
        said = [name for name, _ in control.heard if name != "beat"]
        assert said == ["unready", "unready", "ready", "ready"] and one._state == "ready"

    asyncio.run(run())


def test_a_control_that_began_anew_takes_no_silent_replica_for_ready(monkeypatch):
    monkeypatch.setattr(replica_file, "BEAT_S", 0.005)

    async def run():
        from raylm.serve.control import Control, ControlSettings
        from raylm.serve.directory import Address

        control = Control(ControlSettings({"m": Orders()}))
        one = beating(handle := SimpleNamespace())
        for name in ("beat", "register", "unready", "ready"):
            setattr(handle, name, SimpleNamespace(remote=getattr(control, name)))
        one._process.ready.set_result(Ready(1, Address("", "m", "127.0.0.1", 1, "s3cret"), {}))
        one._process.heard_s = time.monotonic() - 10
        one._state = "unready"
        states = set()

        def told():
            states.update(row.state for row in control.rows("m"))
            return len(control.rows("m")) == 1 and control.rows("m")[0].beat > began + 0.05

        began = time.monotonic()
        await beaten(one, told)
        assert states == {"unready"}

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


@pytest.mark.parametrize("meanwhile", ["beat", "register"])
def test_an_address_that_has_ended_is_not_what_control_is_left_with(monkeypatch, meanwhile):
    monkeypatch.setattr(replica_file, "BEAT_S", 0.005)

    async def run():
        from raylm.serve.directory import Address

        one, ports = beating(None), []
        old, new = one._process, beating(None)._process
        for port, each in enumerate((old, new)):
            each.ready.set_result(Ready(1, Address("", "m", "127.0.0.1", port, "s3cret"), {}))

        async def beat(*_):
            one._process = new if meanwhile == "beat" else one._process
            return Orders() if ports else None

        async def register(address, _):
            one._process = new
            ports.append(address.port)
            return Orders()

        one._control = SimpleNamespace(beat=SimpleNamespace(remote=beat), register=SimpleNamespace(remote=register))
        await beaten(one, lambda: ports and ports[-1] == 1)

    asyncio.run(run())
