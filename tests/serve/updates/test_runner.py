"""Updates turned step by step: Control as it is, replicas and Serve as small objects that do what they are told."""

from __future__ import annotations

import asyncio
from typing import Any

import pytest

from raylm.core.errors import StageError
from raylm.core.storage import Folder
from raylm.serve import control as control_file
from raylm.serve.control import Control, ControlSettings
from raylm.serve.directory import Address, Load, Orders, WeightsOrder
from raylm.serve.updates import runner as runner_file
from raylm.serve.updates.history import Ask, Probed, Proof, Turn, Versions, now
from raylm.serve.updates.rollout import Compared, Tally

OLD, NEW = "0ld0", "ne37"
PROOF = Proof(
    dtype="float32",
    quantized=False,
    ends=[2],
    probes=[Probed(tokens=[1, 2], logprobs=[-1.0])],
    turns=[Turn(text="hi", prompt=[1], greedy=[2], likely=[{2: -0.1}])],
)


class Small:
    """A replica: beats, and takes the weights that it is ordered, or refuses."""

    def __init__(self, control: Control, name: str, fingerprint: str, refuses: str = "") -> None:
        self.control, self.name, self.fingerprint, self.refuses = control, name, fingerprint, refuses
        self.own, self.order, self.ends = fingerprint, None, False

    @property
    def address(self) -> Address:
        return Address(self.name, "chat", "127.0.0.1", 1, "s", fingerprint=self.fingerprint, dtype="float32")

    async def run(self) -> None:
        await self.control.register(self.address)
        while not self.ends:
            orders = await self.control.beat(self.name, Load())
            if orders is None:
                await self.control.register(self.address)
                continue
            self.order = orders.weights
            wanted = orders.weights.fingerprint if orders.weights else self.own
            if wanted != self.fingerprint:
                if self.refuses:
                    await self.control.exchanged(self.name, wanted, self.refuses, {})
                else:
                    self.fingerprint = wanted
                    await self.control.register(self.address)
                    await self.control.exchanged(self.name, wanted, "", {"held_s": 0.05})
            await asyncio.sleep(0.01)
        await self.control.leave(self.name)


class Scene:
    """Control with replicas; what Serve would start is started here."""

    def __init__(self, root: Any) -> None:
        self.versions = Versions.of(Folder(root / "job" / "api"))
        self.replicas: list[Small] = []
        self.proved: list[tuple[str, int]] = []
        self.fails: dict[str, str | Exception] = {}
        self.tasks: list[asyncio.Task[Any]] = []
        self.control = self.again()

    def again(self) -> Control:
        """Control begins anew."""
        settings = ControlSettings(
            {"chat": Orders()},
            orders_uri=f"{self.versions.folder.uri}/orders.json",
            versions_uri=self.versions.uri,
            began={"chat": (OLD, "/old")},
        )
        return Control(settings, proved=self.prove)

    def add(self, name: str, fingerprint: str = OLD, refuses: str = "") -> Small:
        made = Small(self.control, name, fingerprint, refuses)
        self.replicas.append(made)
        self.tasks.append(asyncio.create_task(made.run()))
        return made

    def prove(self, address: Address, proof: Proof) -> None:
        self.proved.append((address.replica, sum(len(each.greedy) for each in proof.turns)))
        if why := self.fails.get(address.fingerprint):
            raise why if isinstance(why, Exception) else StageError(why)

    def ask(self, how: Any = "in_place", **fields: Any) -> Ask:
        usual = {"number": now(), "by": "me@here", "model": "chat", "uri": "/new", "fingerprint": NEW, "how": how, "proof": PROOF}
        made = Ask(**{**usual, **fields})
        self.versions.ask(made)
        # any call of a gateway turns it
        self.control._watch()
        return made

    async def until(self, *phases: str, seconds: float = 10.0) -> Any:
        """The progress, once it is in one of these phases."""
        async with asyncio.timeout(seconds):
            while True:
                at = self.versions.progress()
                if at and at.phase in phases:
                    return at
                await asyncio.sleep(0.01)

    @property
    def rollout(self) -> Any:
        return self.control._directory.rollout

    def held(self) -> dict[str, str]:
        return {each.name: each.fingerprint for each in self.replicas if not each.ends}


@pytest.fixture
def play(tmp_path, monkeypatch):
    monkeypatch.setattr(control_file, "TURN_S", 0.02)
    monkeypatch.setattr(runner_file, "PROVE_S", 0.1)

    def run(scenario):
        async def whole():
            scene = Scene(tmp_path)
            try:
                async with asyncio.timeout(30):
                    return await scenario(scene)
            finally:
                for each in asyncio.all_tasks() - {asyncio.current_task()}:
                    each.cancel()

        return asyncio.run(whole())

    return run


def test_replicas_take_the_weights_one_after_the_other(play):
    async def scenario(scene):
        for name in ("a", "b", "c"):
            scene.add(name)
        await asyncio.sleep(0.05)
        scene.ask(why="better")
        at = await scene.until("done")
        assert scene.held() == {"a": NEW, "b": NEW, "c": NEW} and at.before == OLD
        # the template before anything changes, without an answer of the new weights; then each replica, all of it
        assert scene.proved == [("a", 0), ("a", 1), ("b", 1), ("c", 1)]
        assert at.figures["b"] == {"held_s": 0.05}
        assert [(each.fingerprint, each.how, each.why) for each in scene.versions.read()] == [
            (OLD, "start", "better"),
            (NEW, "in_place", ""),
        ]
        # one that starts later begins with it, and proves itself
        late = await scene.control.orders("chat")
        assert late.weights == WeightsOrder("/new", NEW, (((1, 2), (-1.0,)),), in_place=True)
        assert (await scene.again().orders("chat")).weights == late.weights

    play(scenario)


def test_what_one_refuses_no_other_is_asked_to_take_and_the_others_come_back(play):
    async def scenario(scene):
        scene.add("a")
        scene.add("b", refuses="the engine does not say what this checkpoint says")
        scene.add("c")
        await asyncio.sleep(0.05)
        scene.ask()
        at = await scene.until("stopped")
        assert "b: the engine does not say what this checkpoint says" in at.said[-1]
        async with asyncio.timeout(2):
            while set(scene.held().values()) != {OLD}:
                await asyncio.sleep(0.01)
        assert all(each.order in (None, WeightsOrder("/old", OLD, in_place=True)) for each in scene.replicas)
        assert scene.versions.read() == []

    play(scenario)


def test_a_template_that_is_another_is_refused_before_anything_changes(play):
    async def scenario(scene):
        scene.add("a")
        await asyncio.sleep(0.05)
        scene.fails[OLD] = "the endpoint does not see the prompt that the model was trained on"
        scene.ask()
        at = await scene.until("stopped")
        assert "does not see the prompt" in at.said[-1] and scene.held() == {"a": OLD}

    play(scenario)


def test_a_canary_that_does_well_is_promoted(play):
    async def scenario(scene):
        for name in ("a", "b", "c", "d"):
            scene.add(name)
        await asyncio.sleep(0.05)
        asked = scene.ask("rolling", share=0.25, shadow=0.5, for_s=0.4)
        await scene.until("canary")
        await asyncio.sleep(0.05)
        assert scene.rollout[:6] == ("chat", OLD, NEW, 0.25, (), 0.5)
        assert list(scene.held().values()).count(NEW) == 1
        tally = Tally(asked.number)
        for _ in range(50):
            tally.count(NEW, False, 0.1, 1.0)
            tally.count(OLD, False, 0.1, 1.0)
        tally.compare(NEW, Compared(10, 0, 10, 7, 1.0))
        await scene.control.tally("gateway", tally.told())
        shares = []
        while (at := scene.versions.progress()) is None or not at.over:
            if at and at.phase == "promoting" and scene.rollout:
                shares.append(scene.rollout.share)
            await asyncio.sleep(0.005)
        assert at.phase == "done" and scene.rollout is None and set(scene.held().values()) == {NEW}
        assert shares == sorted(shares) and shares[-1] >= 0.75, "no conversation goes back to the old version"
        assert at.figures["new"] == {"answers": 50, "failed": 0, "first_s": 0.1, "seconds": 1.0}
        assert at.figures["copies"]["agreed"] == 7
        assert len(scene.proved) > 6, "a canary is proved again and again"
        assert scene.versions.current("chat").how == "rolling"

    play(scenario)


@pytest.mark.parametrize("fault", ["errors", "drift", "disagreement", "given up", "gone"])
def test_a_canary_is_stopped_by(play, fault):
    async def scenario(scene):
        first, _ = scene.add("a"), scene.add("b")
        await asyncio.sleep(0.05)
        asked = scene.ask("rolling", share=0.1, for_s=20, start_s=0.5, disagree_rate=0.3)
        await scene.until("canary")
        tally = Tally(asked.number)
        if fault == "errors":
            for _ in range(4):
                tally.count(NEW, True)
        elif fault == "disagreement":
            tally.compare(NEW, Compared(60, 0, 60, 10))
        elif fault == "drift":
            scene.fails[NEW] = "log-probabilities differ"
        elif fault == "gone":
            next(each for each in scene.replicas if each.fingerprint == NEW).ends = True
        else:
            scene.versions.ask(asked.model_copy(update={"number": now(), "stop": True, "why": "I said so"}))
        await scene.control.tally("gateway", tally.told())
        at = await scene.until("stopped")
        words = {
            "errors": "4 of 4 answers failed",
            "drift": "log-probabilities differ",
            "disagreement": "50 of 60 greedy answers are other ones",
            "given up": "given up by me@here: I said so",
            "gone": "no replica of the new version is ready any more",
        }[fault]
        assert words in at.said[-1]
        while scene.rollout is not None:
            # until nobody has it
            assert scene.rollout.share == 0.0
            await asyncio.sleep(0.005)
        assert set(scene.held().values()) == {OLD} and first.name == "a"
        assert (await scene.control.orders("chat")).weights == WeightsOrder("/old", OLD)

    play(scenario)


def test_counts_of_an_earlier_update_are_none_of_this_one(play):
    async def scenario(scene):
        scene.add("a"), scene.add("b")
        await asyncio.sleep(0.05)
        scene.ask("rolling", share=0.1, for_s=0.3)
        tally = Tally("an earlier one")
        for _ in range(20):
            tally.count(NEW, True)
        await scene.control.tally("gateway", tally.told())
        await scene.until("done")

    play(scenario)


def test_a_version_that_fails_its_proof_gets_no_request(play):
    async def scenario(scene):
        scene.add("a")
        await asyncio.sleep(0.05)
        scene.fails[NEW] = "greedy tokens differ"
        scene.ask("rolling")
        seen = set()
        while (at := scene.versions.progress()) is None or not at.over or scene.rollout:
            if NEW in scene.held().values():
                seen.add(scene.rollout.share if scene.rollout else None)
            await asyncio.sleep(0.005)
        assert at.phase == "stopped" and "greedy tokens differ" in at.said[-1]
        assert seen == {0.0} and scene.held() == {"a": OLD}

    play(scenario)


def test_a_fault_of_a_proof_stops_the_update_once(play):
    async def run(scene):
        scene.fails[NEW] = KeyError("chat_template")
        scene.add("a")
        await asyncio.sleep(0.05)
        scene.ask()
        at = await scene.until("stopped")
        assert "KeyError: 'chat_template'" in at.said[-1]
        proved = len(scene.proved)
        await asyncio.sleep(0.1)
        assert len(scene.proved) == proved and scene.versions.read() == []

    play(run)


def test_a_version_that_was_written_before_control_died_is_not_written_twice(play):
    async def run(scene):
        scene.add("a")
        await asyncio.sleep(0.05)
        scene.ask()
        await scene.until("done")
        # what the files hold of a Control that died between the two
        scene.control._turning.cancel()
        scene.control._runner = None
        scene.versions.tell(scene.versions.progress().model_copy(update={"phase": "promoting"}))
        scene.control = scene.replicas[0].control = scene.again()
        scene.control._watch()
        await scene.until("done")
        assert [each.fingerprint for each in scene.versions.read()] == [OLD, NEW]

    play(run)


@pytest.mark.parametrize(("replicas", "why"), [(0, "no replica of it stands"), (1, "a canary stands beside the old version")])
def test_what_there_are_too_few_replicas_for_is_said(play, replicas, why):
    async def scenario(scene):
        for at in range(replicas):
            scene.add(f"r{at}")
        await asyncio.sleep(0.05)
        scene.ask("rolling", share=0.5, for_s=1)
        assert why in (await scene.until("stopped")).said[-1]
        assert scene.rollout is None and set(scene.held().values()) <= {OLD}

    play(scenario)


def test_control_that_begins_anew_goes_on_and_no_gateway_takes_the_new_version_for_another(play):
    async def scenario(scene):
        scene.add("a"), scene.add("b")
        await asyncio.sleep(0.05)
        scene.ask("rolling", keys=["alice"], for_s=0.5)
        await scene.until("canary")
        scene.control._turning.cancel()
        scene.control._runner = None
        # the one that died; its successor knows before anybody registers
        scene.control = scene.again()
        assert scene.rollout.keys == ("alice",) and scene.rollout.fresh == NEW
        for each in scene.replicas:
            each.control = scene.control
        await scene.until("done")
        assert set(scene.held().values()) == {NEW}

    play(scenario)


def test_what_does_not_give_up_the_version_that_was_stopped_is_not_asked_however_long_it_takes(play):
    async def scenario(scene):
        stuck, _ = scene.add("a"), scene.add("b")
        await asyncio.sleep(0.05)
        scene.ask("rolling", keys=["alice"], for_s=20, start_s=0.3)
        await scene.until("canary")
        for each in scene.replicas:
            each.refuses = "it does not start"
        scene.fails[NEW] = "greedy tokens differ"
        await scene.until("stopped")
        await asyncio.sleep(0.5)
        assert NEW in scene.held().values() and scene.rollout.share == 0.0 and not scene.rollout.keys
        # nor by a Control that begins anew
        scene.control._turning.cancel()
        scene.control._runner = None
        scene.control = scene.again()
        assert scene.rollout.share == 0.0 and scene.rollout.fresh == NEW
        for each in scene.replicas:
            each.control, each.refuses = scene.control, ""
        while scene.rollout is not None:
            await asyncio.sleep(0.005)
        assert set(scene.held().values()) == {OLD} and stuck.fingerprint == OLD

    play(scenario)


def test_what_was_given_up_while_nobody_led_is_not_asked_either(play):
    async def scenario(scene):
        scene.add("a"), scene.add("b")
        await asyncio.sleep(0.05)
        asked = scene.ask("rolling", keys=["alice"], for_s=20)
        await scene.until("canary")
        scene.control._turning.cancel()
        scene.control._runner = None
        scene.versions.ask(asked.model_copy(update={"number": now(), "stop": True}))
        scene.control = scene.again()
        assert scene.versions.progress().phase == "stopped"
        assert (scene.rollout.fresh, scene.rollout.share, scene.rollout.keys) == (NEW, 0.0, ())

    play(scenario)


def test_an_ask_that_cannot_be_read_is_said_once_and_stops_nothing_that_has_ended(play):
    async def scenario(scene):
        scene.add("a")
        await asyncio.sleep(0.05)
        scene.ask()
        await scene.until("done")
        scene.versions.folder.write("api.asked.json", "{}")
        await asyncio.sleep(0.3)
        assert scene.versions.progress().phase == "done"
        assert sum("cannot be read" in entry["why"] for entry in await scene.control.decisions()) == 1

    play(scenario)


@pytest.mark.parametrize("name", ["api.asked.json", "api.state.json"])
def test_a_story_that_cannot_be_read_keeps_no_control_from_starting(play, name):
    async def scenario(scene):
        scene.add("a")
        await asyncio.sleep(0.05)
        scene.ask()
        await scene.until("done")
        scene.versions.folder.write(name, "{}")
        assert (await scene.again().orders("chat")).weights is not None

    play(scenario)
