"""Groups of conversations: turns go between environment and generators until all members are there, or their time is over."""

from __future__ import annotations

import json
import time
from typing import Any

import pytest

from raylm.core.errors import StageError
from raylm.inference.completions import Completion, Quarantined, VersionSpan
from raylm.rl.batches import Batch
from raylm.rl.conversations import Ended, Request
from raylm.rl.order import Ask
from raylm.rl.rollout_metrics import score_metrics
from raylm.rl.rollouts import Group, Rollouts
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, Unscored, experience_of
from tests.rl.world import Rewards

PROMPT = Prompt(3, [1, 2], json.dumps([]), None)


class Engines:
    """Answer everything at once, by the weights of `version`."""

    def __init__(self, version: int = 0) -> None:
        self.asked: list[tuple[Any, ...]] = []
        self.owed: list[Any] = []
        self.cancelled: list[Any] = []
        self.version = version

    def submit(self, key: Any, tokens: list[int], num: int, temperature: float, seed: int, most: int | None) -> None:
        self.asked.append((key, tokens, num, temperature, most))
        self.owed.append((key, num))

    def wait(self, timeout_s: float) -> list[tuple[Any, list[Completion]]]:
        owed, self.owed = self.owed, []
        return [(key, [Completion([7], [-0.1], "", "stop", (VersionSpan(self.version, 0, 1),))] * num) for key, num in owed]

    def cancel(self, key: Any) -> None:
        self.cancelled.append(key)


class Talks:
    """Conversations of two turns; the one at `fails` ends without a score, the one at `hangs` never."""

    def __init__(self, fails: int = -1, hangs: int = -1) -> None:
        self._fails, self._hangs = fails, hangs
        self._open: dict[Any, list[int]] = {}
        self._ready: list[Any] = []

    def __len__(self) -> int:
        return len(self._open) + sum(isinstance(one, Ended) for one in self._ready)

    def begin(self, key: Any, prompt: Prompt, seed: int) -> None:
        self._open[key] = []
        if key[1] != self._hangs:
            self._ready.append(Request(key, [*prompt.tokens, 4], 5, seed, 0))

    def next(self, key: Any, completion: Completion) -> None:
        turns = self._open[key]
        turns += completion.tokens
        if len(turns) < 2:
            self._ready.append(Request(key, [1, 2, 4, *turns, 8], 3, 0, 1))
            return
        del self._open[key]
        drawn = Trajectory([7, 8, 7], [-0.1, 0.0, -0.1], "", "stop", mask=[1, 0, 1], num_turns=2)
        why = Unscored("raised", "the environment raised") if key[1] == self._fails else None
        self._ready.append(Ended(key, PROMPT._replace(tokens=[1, 2, 4]), drawn, why))

    def ready(self, timeout_s: float) -> list[Any]:
        ready, self._ready = self._ready, []
        return ready

    def cancel(self, key: Any) -> None:
        self._open.pop(key, None)


def finished(rollouts: Rollouts) -> Any:
    until = time.monotonic() + 20.0
    while time.monotonic() < until:
        if found := rollouts.poll(0.05):
            return found[0]
    raise AssertionError("nothing came")


def made(engines: Any, talks: Any = None, timeout_s: float | None = None) -> Rollouts:
    rewards: Any = Rewards()
    return Rollouts(engines, rewards, 3, 0.7, timeout_s, talks)


def test_turns_go_to_and_fro_and_rewards_are_asked_of_what_has_no_fault():
    engines = Engines()
    rollouts = made(engines, Talks(fails=1))
    rollouts.ask(Ask(0, 3), PROMPT, 0, 0)
    group = finished(rollouts)
    assert [one.unscored.kind if one.unscored else "" for one in group.rollouts] == ["", "raised", ""]
    assert all(one.prompt.tokens == [1, 2, 4] and one.trajectory.mask == [1, 0, 1] for one in group.rollouts)
    assert [(asked[1], asked[2:]) for asked in engines.asked[:3:2]] == [([1, 2, 4], (1, 0.7, 5))] * 2
    assert engines.asked[3][1:] == ([1, 2, 4, 7, 8], 1, 0.7, 3) and not rollouts.under_way


def test_members_that_are_late_are_left_out_and_the_others_are_scored():
    rollouts = made(Engines(), Talks(hangs=2), timeout_s=0.3)
    rollouts.ask(Ask(0, 3), PROMPT, 0, 0)
    group = finished(rollouts)
    assert [one.unscored.kind if one.unscored else "" for one in group.rollouts] == ["", "", "late"]


@pytest.mark.parametrize("version", [1, 4])
def test_tokens_of_weights_that_cannot_be_are_refused(version):
    rollouts = made(Engines(version))
    rollouts.newest = 3
    rollouts.ask(Ask(0, 3), PROMPT, 0, 2)
    with pytest.raises(StageError, match=f"drawn by version {version} of the weights, the trainer sent versions 2 to 3"):
        finished(rollouts)


class Refusing(Engines):
    """Its generators end at the second request."""

    def wait(self, timeout_s: float) -> list[tuple[Any, Any]]:
        found = super().wait(timeout_s)
        second = self.asked[1][0] if len(self.asked) > 1 else None
        return [(key, Quarantined(3, "out of memory") if key == second else answer) for key, answer in found]


def test_a_prompt_that_ends_its_generators_costs_itself_alone():
    rollouts = made(Refusing())
    for row in (3, 4, 5):
        rollouts.ask(Ask(0, row), PROMPT._replace(row=row), 0, 0)
    groups = rollouts.poll(0.1) + rollouts.poll(0.1)
    kinds = {group.ask.row: {one.unscored.kind if one.unscored else "" for one in group.rollouts} for group in groups}
    assert kinds == {3: {""}, 4: {"quarantined"}, 5: {""}} and all(len(group.rollouts) == 3 for group in groups)
    (said,) = {one.unscored.why for group in groups for one in group.rollouts if one.unscored}
    assert "ended 3 generators, the last one on it alone: out of memory" in said
    # of conversations the one that came to such a place
    rollouts = made(Refusing(), Talks())
    rollouts.ask(Ask(0, 3), PROMPT, 0, 0)
    group = finished(rollouts)
    assert [one.unscored.kind if one.unscored else "" for one in group.rollouts] == ["", "quarantined", ""]


def test_rewards_at_tokens_tell_completions_apart():
    group = Group(0, Ask(0, 3), PROMPT, 0, 2, 1.0, 0.0)
    drawn = Trajectory([5, 6], [-0.1, -0.1], "", "stop")
    group.rollouts = [Rollout(PROMPT, drawn, Score(0.0, ""), token_rewards=[0.0, value]) for value in (0.5, 0.5)]
    assert not group.teaches()
    group.rollouts[1] = group.rollouts[1]._replace(token_rewards=[0.0, 0.7])
    assert group.teaches(), "a process reward is no part of the score"
    assert score_metrics(group.rollouts)["reward_std_zero_share"] == 0.0


def test_what_an_algorithm_rejects_is_told_from_what_teaches_nothing():
    groups = []
    for number, scores in enumerate([(0.0, 1.0), (1.0, 1.0)]):
        group = Group(number, Ask(0, number), PROMPT._replace(row=number), 0, 2, 1.0, 0.0)
        drawn = Trajectory([5, 6], [-0.1, -0.1], "", "stop")
        group.rollouts = [Rollout(group.prompt, drawn, Score(score, "")) for score in scores]
        groups.append(group)
    batch = Batch(groups, [])
    given = experience_of([one for group in groups for one in group.rollouts], [0, 1], 0).samples
    assert [(one.row, one.place) for one in batch.rejected(given, given[:1])] == [(0, 1)]
    assert [(one.row, one.place) for one in batch.rejected(given, [])] == [(0, 0), (0, 1)]


def test_what_is_cancelled_never_comes():
    engines = Engines()
    rollouts = made(engines)
    rollouts.ask(Ask(0, 3), PROMPT, 0, 0)
    rollouts.cancel()
    assert rollouts.poll(0.0) == [] and engines.cancelled == [0] and not rollouts.under_way
