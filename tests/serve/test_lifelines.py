"""A connection to a replica's server: what its end tells, and what it does not."""

from __future__ import annotations

import asyncio
import errno
import time

import pytest

from raylm.serve import control, lifelines
from raylm.serve.control import Control, ControlSettings
from raylm.serve.directory import CLOSED, SILENT_S, Address, Load, Orders


@pytest.fixture(autouse=True)
def quick(monkeypatch):
    monkeypatch.setattr(lifelines, "AGAIN_S", 0.01)
    monkeypatch.setattr(control, "GRACE_S", 0.0)


class Server:
    """Accepts, and says nothing, as an engine server of which nothing is asked."""

    def __init__(self) -> None:
        self.writers: list[asyncio.StreamWriter] = []

    async def start(self, port: int = 0) -> int:
        self.server = await asyncio.start_server(lambda _, writer: self.writers.append(writer), "127.0.0.1", port)
        return self.server.sockets[0].getsockname()[1]

    async def connected(self) -> None:
        while not self.writers:
            await asyncio.sleep(0.005)

    def end(self) -> None:
        self.server.close()
        self.drop()

    def drop(self) -> None:
        for writer in self.writers:
            writer.close()
        self.writers.clear()


def at(port: int, replica: str = "a") -> Address:
    return Address(replica, "chat", "127.0.0.1", port, "s3cret")


async def state_of(one: Control, state: str, replica: str = "a"):
    """Its row, once it is in this state."""
    async with asyncio.timeout(5):
        while True:
            row = next(each for each in (await one.view()).replicas if each.address.replica == replica)
            if row.state == state:
                return row
            await asyncio.sleep(0.005)


def test_a_server_that_ends_is_told_long_before_its_silence_would_be():
    async def run():
        one, server = Control(ControlSettings({"chat": Orders()})), Server()
        port = await server.start()
        await one.register(at(port))
        await server.connected()
        view = await one.changes(0, 5)
        assert view is not None and view.ready("chat")
        asked = asyncio.create_task(one.changes(view.version, 60))
        await asyncio.sleep(0.01)
        began = time.monotonic()
        server.end()
        heard = await asyncio.wait_for(asked, 5)
        assert heard is not None and [(row.state, row.why) for row in heard.replicas] == [("unready", CLOSED)]
        assert time.monotonic() - began < SILENT_S
        # its replica lives, and says nothing of its server: that is no reason to ask it
        await one.beat("a", Load())
        assert (await state_of(one, "unready")).why == CLOSED
        await server.start(port)
        await state_of(one, "ready")

    asyncio.run(run())


def test_a_connection_that_is_dropped_and_made_again_is_no_death():
    async def run():
        one, server = Control(ControlSettings({"chat": Orders()})), Server()
        await one.register(at(await server.start()))
        for _ in range(3):
            await server.connected()
            version = (await one.view()).version
            server.drop()
            await server.connected()
            assert (await one.view()).version == version

    asyncio.run(run())


def test_the_end_of_a_server_whose_replica_has_another_is_no_news_nor_of_one_that_was_never_reached():
    async def run():
        one, old, new = Control(ControlSettings({"chat": Orders()})), Server(), Server()
        await one.register(at(await old.start()))
        await old.connected()
        await one.register(at(await new.start()))
        await new.connected()
        free = Server()
        port = await free.start()
        free.end()
        await one.register(at(port, "b"))
        old.end()
        await asyncio.sleep(0.1)
        assert {row.state for row in (await one.view()).replicas} == {"ready"}
        # what the replica itself said stays
        await one.unready("a", "the engine died")
        new.end()
        await asyncio.sleep(0.1)
        assert (await state_of(one, "unready")).why == "the engine died"

    asyncio.run(run())


def test_a_server_that_closes_each_connection_as_it_comes_is_not_asked_without_a_pause(monkeypatch):
    monkeypatch.setattr(lifelines, "AGAIN_S", 0.2)

    async def run():
        accepted = list[asyncio.StreamWriter]()

        def close(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            accepted.append(writer)
            writer.close()

        server = await asyncio.start_server(close, "127.0.0.1", 0)
        one = Control(ControlSettings({"chat": Orders()}))
        await one.register(at(server.sockets[0].getsockname()[1]))
        await asyncio.sleep(0.5)
        assert 1 <= len(accepted) <= 4

    asyncio.run(run())


@pytest.mark.parametrize(("lack", "state"), [(errno.EMFILE, "ready"), (errno.EHOSTUNREACH, "unready")])
def test_what_control_itself_lacks_is_no_death_of_a_server(lack, state, monkeypatch):
    tried = list[str]()

    async def refuse(host: str, port: int) -> None:
        tried.append(host)
        raise OSError(lack, "no connection")

    async def run():
        one, server = Control(ControlSettings({"chat": Orders()})), Server()
        await one.register(at(await server.start()))
        await server.connected()
        monkeypatch.setattr(asyncio, "open_connection", refuse)
        server.drop()
        async with asyncio.timeout(5):
            while len(tried) < 3:
                await asyncio.sleep(0.005)
        assert [row.state for row in (await one.view()).replicas] == [state]

    asyncio.run(run())
