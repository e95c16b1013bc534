"""Who gets a place, and that none is lost: without a network."""

from __future__ import annotations

import asyncio
import time

from raylm.core.config import Config
from raylm.serve.config import GatewaySpec
from raylm.serve.directory import Address, Replica, View
from raylm.serve.gateway.dispatch import Dispatch, Wanted
from raylm.serve.gateway.settings import GatewaySettings, ModelFacts
from raylm.serve.routing.routing import Asked
from raylm.serve.updates.rollout import Rollout

OLD, NEW = "f00d", "ne37"


def row(name, fingerprint=OLD, adapters=()):
    return Replica(Address(name, "chat", "127.0.0.1", 1, name, fingerprint=fingerprint, adapters=adapters), "ready")


def made(*rows, rollout=None, **facts):
    models = (ModelFacts("chat", "m", OLD, **{"most_ongoing": 1, **facts}),)
    one = Dispatch(GatewaySettings("127.0.0.1", 0, models, GatewaySpec()), lambda _: None)
    one.see(View(1, rows, rollout))
    return one


def test_a_place_that_comes_with_the_deadline_is_not_lost():
    async def run():
        one, asked = made(row("a")), Asked("chat", "/v1/completions", "k")
        first = await one.place(Wanted(asked), time.monotonic() + 5)
        waits = asyncio.create_task(one.place(Wanted(asked), time.monotonic() + 0.02))
        await asyncio.sleep(0)
        # freed and too late in one turn of the loop, in this order
        asyncio.get_running_loop().call_soon(one.free, first, asked)
        time.sleep(0.03)
        one.free(await waits, asked)
        assert one.under_way("a") == 0 and one.held() == {}

    asyncio.run(run())


def test_what_waits_for_a_version_or_an_adapter_that_is_full_holds_up_no_other():
    async def run(rows, rollout, full, other):
        one = made(*rows, rollout=rollout)
        taken = await one.place(Wanted(full), time.monotonic() + 5)
        assert taken.address.replica == "new"
        waits = [asyncio.create_task(one.place(Wanted(full), time.monotonic() + 5)) for _ in range(2)]
        await asyncio.sleep(0)
        async with asyncio.timeout(1):
            assert (await one.place(Wanted(other), time.monotonic() + 5)).address.replica == "old"
        for each in waits:
            one.free(taken, full)
            taken = await each

    rollout = Rollout("chat", OLD, NEW, 0.5, keys=())
    asked = [Asked("chat", "/v1/completions", "k", session=f"s{number}") for number in range(40)]
    fresh = next(each for each in asked if rollout.chosen(each, 0.0))
    stable = next(each for each in asked if not rollout.chosen(each, 0.0))
    asyncio.run(run((row("old"), row("new", NEW)), rollout, fresh, stable))
    rows = (row("new", adapters=("tuned",)), row("old"))
    asyncio.run(run(rows, None, Asked("tuned", "/v1/completions", "k"), Asked("chat", "/v1/completions", "k")))


class Broken(Config):
    """Somebody's routing card, with a mistake in it."""

    kind: str = "broken"
    says: str = ""

    def choose(self, asked, candidates):
        """Fails, or chooses what is none."""
        return self.says or {}["nothing"]


def test_a_routing_card_that_fails_costs_nobody_an_answer(caplog):
    async def run():
        for card in (Broken(), Broken(says="b")):
            one, asked = made(row("a"), row("b"), routing=card), Asked("chat", "/v1/completions", "k")
            places = [await one.place(Wanted(asked), time.monotonic() + 5) for _ in range(2)]
            waits = asyncio.create_task(one.place(Wanted(asked), time.monotonic() + 5))
            await asyncio.sleep(0)
            for each in places:
                one.free(each, asked)
            one.free(await waits, asked)
            assert one.under_way("a") == one.under_way("b") == 0
            assert "the routing card broken failed" in caplog.text
            caplog.clear()

    asyncio.run(run())


def test_an_answer_of_an_adapter_goes_on_with_that_adapter_alone():
    asked = Asked("tuned", "/v1/completions", "k")

    def address(name, fingerprint):
        return row(name, adapters=("tuned",)).address._replace(lineage={"adapters": {"tuned": {"fingerprint": fingerprint}}})

    wanted = Wanted(asked, like=address("a", "ada9"))
    assert wanted.fits(address("b", "ada9")) and not wanted.fits(address("b", "0ther"))
    # answers of the model itself go on wherever the model is
    assert wanted._replace(asked=asked._replace(model="chat")).fits(address("b", "0ther"))
