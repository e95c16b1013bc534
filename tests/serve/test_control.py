"""Control without Ray: who hears of what, and what its death costs."""

from __future__ import annotations

import asyncio
import time

import pytest

from raylm.core.errors import ConfigError
from raylm.serve import control, directory
from raylm.serve.control import Control, ControlSettings
from raylm.serve.directory import AdapterOrder, Address, Load, Orders, WeightsOrder
from raylm.serve.guards.guard import Visit
from raylm.serve.guards.request_rate import RequestRate

A = Address("a", "chat", "127.0.0.1", 1, "s3cret")


def settings(tmp_path=None, **options):
    return ControlSettings({"chat": Orders()}, str(tmp_path / "orders.json") if tmp_path else "", **options)


def test_gateways_hear_of_an_unready_replica_at_once(monkeypatch):
    async def run():
        one = Control(settings())
        await one.register(A)
        view = await one.changes(0, 5)
        assert view and [each.address.replica for each in view.ready("chat")] == ["a"]
        asked = asyncio.create_task(one.changes(view.version, 60))
        await asyncio.sleep(0.01)
        began = time.monotonic()
        await one.unready("a", "the engine died")
        # its own start is not long ago, so the answer is that nothing is known; that it answers is what counts
        await asyncio.wait_for(asked, 5)
        monkeypatch.setattr(control, "GRACE_S", 0.0)
        view = await one.changes(view.version, 60)
        assert view and view.ready("chat") == [] and time.monotonic() - began < 5

    asyncio.run(run())


def test_a_view_without_changes_comes_for_its_loads(monkeypatch):
    monkeypatch.setattr(control, "GRACE_S", 0.0)

    async def run():
        one = Control(settings())
        await one.register(A)
        view = await one.changes(0, 5)
        assert view and await one.beat("a", Load(running=7)) == Orders()
        again = await one.changes(view.version, 0.01, "gateway-1", {"chat": 4})
        assert again and again.version == view.version and again.replicas[0].load.running == 7
        assert await one.held("chat") == 4 and await one.held("other") == 0

    asyncio.run(run())


def test_a_silent_replica_is_struck_off_by_time_alone(monkeypatch):
    monkeypatch.setattr(control, "GRACE_S", 0.0)
    monkeypatch.setattr(control, "EXPIRE_S", 0.01)
    monkeypatch.setattr(directory, "SILENT_S", 0.05)

    async def run():
        one = Control(settings())
        await one.register(A)
        version = (await one.view()).version
        view = await one.changes(version, 5)
        assert view and view.version > version and view.ready("chat") == []

    asyncio.run(run())


def test_after_its_death_replicas_come_again_orders_are_kept_and_versions_grow(tmp_path, monkeypatch):
    async def first():
        one = Control(settings(tmp_path))
        await one.register(A)
        await one.load_adapter("chat", "polite", "somewhere")
        await one.order_weights("chat", WeightsOrder("there", "f00d"))
        with pytest.raises(ConfigError, match="is called 'polite' already"):
            await one.load_adapter("chat", "polite", "elsewhere")
        return (await one.view()).version

    async def second(version):
        one = Control(settings(tmp_path))
        # a gateway keeps its view until replicas had the time to come again
        assert await one.changes(version, 0.01) is None
        assert await one.beat("a", Load()) is None
        orders = await one.register(A)
        assert orders == Orders((AdapterOrder("polite", "somewhere"),), WeightsOrder("there", "f00d"))
        monkeypatch.setattr(control, "GRACE_S", 0.0)
        view = await one.changes(version, 5)
        assert view and view.version > version and len(view.ready("chat")) == 1
        await one.unload_adapter("chat", "polite")
        assert await one.adapters("chat") == ()
        with pytest.raises(ConfigError, match="no adapter 'polite'"):
            await one.unload_adapter("chat", "polite")
        with pytest.raises(ConfigError, match=r"no model 'chta'.*chat"):
            await one.adapters("chta")

    asyncio.run(second(asyncio.run(first())))


def test_where_several_gateways_ask_the_guards_stand_here():
    async def run():
        one = Control(settings(guards=(RequestRate(per_minute=1),)))
        visit = Visit("d1gest", "POST", "/v1/completions", 10)
        assert (await one.admit(visit)).refusal is None
        refused = (await one.admit(visit)).refusal
        assert refused and refused.status == 429
        await one.finish(visit, 3)
        await one.decided({"what": "scale", "why": "queue"})
        assert (await one.decisions())[-1]["why"] == "queue"

    asyncio.run(run())


def test_gateways_are_looked_after_also_after_ray_did_not_answer(monkeypatch, caplog):
    from raylm.serve.gateway import nodes
    from raylm.serve.gateway.settings import GatewaySettings

    monkeypatch.setattr(control, "NODES_S", 0.01)
    looked = []

    def keep(gateways):
        looked.append(gateways.port)
        if len(looked) == 1:
            raise RuntimeError("the state of the cluster is lost")

    monkeypatch.setattr(nodes, "keep_on_every", keep)

    async def run():
        one = Control(settings(gateways=GatewaySettings("127.0.0.1", 7, ())))
        await one.register(A)
        async with asyncio.timeout(5):
            while len(looked) < 3:
                await asyncio.sleep(0.01)

    asyncio.run(run())
    assert "the state of the cluster is lost" in caplog.text
