"""Two versions behind one gateway: shares, keys, copies that nobody waits for, counters, and a canary that is stopped."""

from __future__ import annotations

import asyncio
import contextlib
import json
import time
from typing import Any

import pytest

from raylm.core.storage import Folder
from raylm.serve import control as control_file
from raylm.serve.audit import Audit
from raylm.serve.engine.spans import Mark
from raylm.serve.gateway.gateway import Gateway
from raylm.serve.keys import KeyFile, add
from raylm.serve.updates.history import Ask, Versions, now
from raylm.serve.updates.rollout import Allowed, Compared, Counts, Rollout
from raylm.serve.updates.runner import Runner
from tests.serve.gateway.running import CHAT, COMPLETIONS, plain, running, said, until
from tests.serve.scripted_replica import Script, ScriptedReplica, expected

OLD, NEW = "f00d", "ne37"


@contextlib.asynccontextmanager
async def beside(rollout, fresh=Script(), stable=Script(), **options):
    """A gateway with a replica of each version."""
    async with running(stable, **options) as held:
        held.control.lead(rollout)
        async with ScriptedReplica("fresh", held.control, fresh, fingerprint=NEW) as new:
            await until(lambda: len(held.gateway._dispatch.view.replicas) == 2)
            await until(lambda: held.gateway._dispatch.view.rollout == rollout)
            yield held, new


def counted(held):
    return held.control.told(held.gateway._dispatch.view.rollout.number)


def conversation(number):
    return {"messages": [{"role": "user", "content": f"question {number}"}], "max_tokens": 2, "model": "chat"}


def test_a_share_of_the_conversations_and_what_each_version_answered():
    async def scenario():
        async with beside(Rollout("chat", OLD, NEW, 0.3, number="1")) as (held, _):
            served = []
            for number in range(60):
                status, headers, _ = await held.ask(CHAT, conversation(number))
                assert status == 200
                served.append(headers["x-raylm-served"])
            again = [(await held.ask(CHAT, conversation(number)))[1]["x-raylm-served"] for number in range(20)]
            assert again == served[:20] and {OLD, NEW} == set(served)
            assert 5 < served.count(NEW) < 35
            await until(lambda: sum(each.answers for each in counted(held).counts.values()) == 80)
            found = counted(held).counts
            assert found[NEW].answers == [*served, *again].count(NEW) and found[NEW].failed == found[OLD].failed == 0
            assert found[NEW].seconds >= found[NEW].first_s > 0

    asyncio.run(scenario())


def test_by_key(tmp_path):
    async def scenario():
        keys = KeyFile.of(Folder(tmp_path / "job" / "api"))
        alice, bob = add(keys, "alice"), add(keys, "bob")
        options: Any = {"key_digest": "0" * 64, "keys_uri": keys.uri}
        async with beside(Rollout("chat", OLD, NEW, keys=("alice",)), **options) as (held, _):
            for key, version in ((alice, NEW), (bob, OLD)):
                for number in range(5):
                    _, headers, _ = await held.ask(CHAT, conversation(number), authorization=f"Bearer {key}")
                    assert headers["x-raylm-served"] == version

    asyncio.run(scenario())


def test_a_version_that_is_full_does_not_send_its_requests_to_the_other():
    async def scenario():
        from raylm.serve.gateway.settings import ModelFacts

        models = (ModelFacts("chat", "m", OLD, "float32", most_ongoing=1),)
        stable = Script(token_s=0.05)
        async with beside(Rollout("chat", OLD, NEW, 0.0), stable=stable, models=models) as (held, new):
            asked = [held.ask(COMPLETIONS, {"model": "chat", "prompt": "x", "max_tokens": 2}) for _ in range(4)]
            answers = await asyncio.gather(*asked)
            assert {headers["x-raylm-served"] for _, headers, _ in answers} == {OLD} and new.seen == []

    asyncio.run(scenario())


@pytest.mark.parametrize("streams", [False, True])
def test_copies_are_compared_and_nobody_waits_for_them(streams):
    async def scenario():
        # the new version takes half a second for each answer
        async with beside(Rollout("chat", OLD, NEW, shadow=1.0, number="1"), fresh=Script(ttft_s=0.5)) as (held, new):
            began = time.monotonic()
            for path in (CHAT, COMPLETIONS):
                body = {
                    "max_tokens": 4,
                    "temperature": 0,
                    **({"messages": [{"role": "user", "content": "hi"}]} if path == CHAT else {"prompt": "hi"}),
                }
                if streams:
                    assert said(await held.stream(path, body))
                else:
                    assert (await held.ask(path, {"model": "chat", **body}))[0] == 200
            assert time.monotonic() - began < 0.4
            await until(lambda: counted(held).compared.get(NEW, Compared()).sent == 2)
            found = counted(held).compared[NEW]
            assert found[:4] == (2, 0, 2, 2) and found.slower_s > 0.8
            # nobody is charged for them, and they are no answers of the new version
            assert NEW not in counted(held).counts and all(not body.get("stream") for _, body, _ in new.seen)

    asyncio.run(scenario())


def test_copies_that_fail_and_answers_that_are_not_greedy():
    async def scenario():
        async with beside(Rollout("chat", OLD, NEW, shadow=1.0, number="1"), fresh=Script(refuses=(500, "x"))) as (held, new):
            assert (await held.ask(COMPLETIONS, {"model": "chat", "prompt": "x", "temperature": 0}))[0] == 200
            await until(lambda: counted(held).compared.get(NEW, Compared()).sent == 1)
            new.script.refuses = None
            assert (await held.ask(COMPLETIONS, {"model": "chat", "prompt": "x", "temperature": 1}))[0] == 200
            await until(lambda: counted(held).compared[NEW].sent == 2)
            assert counted(held).compared[NEW][:4] == (2, 1, 0, 0)

    asyncio.run(scenario())


def test_a_failure_counts_also_where_another_replica_answered():
    async def scenario():
        async with beside(Rollout("chat", OLD, NEW, 1.0, number="1"), fresh=Script(dies_after=3)) as (held, _):
            text = said(await held.stream(COMPLETIONS, {"prompt": "go on", "max_tokens": 8}))
            # what was begun with one version does not go on with another
            assert text == expected("go on", 3) or text == ""
            await until(lambda: counted(held).counts.get(NEW, Counts()).failed == 1)

    asyncio.run(scenario())


def test_a_canary_that_fails_is_stopped_and_its_clients_have_the_old_version(tmp_path, monkeypatch):
    monkeypatch.setattr(control_file, "TURN_S", 0.02)

    async def scenario():
        async with running(Script(), Script()) as held:
            versions = Versions.of(Folder(tmp_path / "job" / "api"))
            held.control._runner = Runner(held.control, versions, lambda *_: None, {"chat": (OLD, "/old")})
            versions.ask(
                Ask(number=now(), by="me", model="chat", uri="/new", fingerprint=NEW, how="rolling", share=0.5, for_s=30)
            )
            obedient = [asyncio.create_task(obey(held.control, each)) for each in held.replicas]
            await until(lambda: (at := versions.progress()) is not None and at.phase == "canary")
            await until(lambda: (view := held.gateway._dispatch.view).rollout is not None and view.rollout.share == 0.5)
            (canary,) = [each for each in held.replicas if each.fingerprint == NEW]
            canary.script.refuses = (500, "internal")
            # as fast as they can be asked: who counts decides, nobody waits for Control to look
            statuses = [(await held.ask(CHAT, conversation(number)))[0] for number in range(40)]
            assert statuses.count(500) == 3
            await until(lambda: (at := versions.progress()) is not None and at.over, 30)
            at = versions.progress()
            assert at is not None and at.phase == "stopped" and "3 of 3 answers failed" in at.said[-1]
            await until(lambda: held.gateway._dispatch.view.rollout is None, 30)
            for number in range(20):
                _, headers, _ = await held.ask(CHAT, conversation(number))
                assert headers["x-raylm-served"] == OLD
            for each in obedient:
                each.cancel()

    asyncio.run(scenario())


def test_what_one_gateway_found_no_other_has_to_find():
    async def scenario():
        rollout = Rollout("chat", OLD, NEW, 1.0 - 1e-9, number="1", allows=Allowed())
        async with beside(rollout, fresh=Script(refuses=(500, "internal"))) as (held, new):
            other = Gateway(held.gateway._settings._replace(name="other"), held.steering)
            port = await other.start()
            try:
                await until(lambda: other._dispatch.view.rollout == rollout)
                # ten at once: three decide, of the others those fail that are under way
                answers = await asyncio.gather(*[held.ask(CHAT, conversation(number)) for number in range(10)])
                assert 3 <= [status for status, _, _ in answers].count(500) <= 10
                await until(lambda: other._dispatch.view.rollout.share == 0.0)
                seen = len(new.seen)
                body = b'{"model": "chat", "prompt": "x", "max_tokens": 1}'
                for at in (port, held.port):
                    for _ in range(5):
                        said = await plain(at, "POST", COMPLETIONS, ("content-type", "application/json"), body=body)
                        assert said[0] == 200 and said[1]["x-raylm-served"] == OLD
                assert len(new.seen) == seen
            finally:
                await other.drain(0.0)

    asyncio.run(scenario())


async def obey(control, replica):
    """Let a scripted replica have what it is ordered."""
    while True:
        orders = await control.beat(replica.name, replica.load)
        wanted = orders.weights.fingerprint if orders and orders.weights else OLD
        if orders and wanted != replica.fingerprint:
            replica.fingerprint = wanted
            if wanted == OLD:
                # what failed was the version
                replica.script.refuses = None
            replica.address = replica.address._replace(fingerprint=wanted)
            await control.register(replica.address)
        await asyncio.sleep(0.01)


@pytest.mark.parametrize("streams", [False, True])
def test_the_audit_log_knows_which_tokens_are_of_which_weights(tmp_path, streams):
    async def scenario():
        async with running(Script(marks=(4, Mark("b0b0", ((0, 4),)))), audit=Audit(), audit_folder=str(tmp_path)) as held:
            body = {"prompt": "tell me", "max_tokens": 9, "model": "chat"}
            if streams:
                events = await held.stream(COMPLETIONS, body)
                assert said(events) == expected("tell me", 9)
            else:
                status, headers, _ = await held.ask(COMPLETIONS, body)
                assert status == 200 and "x-raylm-spans" not in headers
            await until(lambda: list(tmp_path.glob("*.jsonl")))
            await asyncio.sleep(0.05)
        (line,) = [json.loads(each) for file in tmp_path.glob("*.jsonl") for each in file.read_text().splitlines()]
        assert line["served"] == OLD and line["completion_tokens"] == 9
        assert line["spans"] == [[0, OLD, 0, 4], [0, "b0b0", 4, None]]

    asyncio.run(scenario())
