"""Reward workers through Ray: groups go in, rollouts come out as they are done, whatever becomes of an actor."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from pathlib import Path

import pytest

from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.types import Prompt, Trajectory
from tests.rl.samples import config

pytestmark = pytest.mark.ray


class Sleeps:
    """Waits as long as the completion says: so many seconds, or until a file is there."""

    def score(self, prompt, completion, ground_truth):
        while completion.startswith("/") and not Path(completion).exists():
            time.sleep(0.02)
        time.sleep(0.0 if completion.startswith("/") else float(completion))
        return 1.0


def drawn(*texts: str) -> list[Trajectory]:
    return [Trajectory([5], [-1.0], text, "stop") for text in texts]


def prompt(row: int) -> Prompt:
    return Prompt(row, [1, 2], "[]", None)


@pytest.fixture(scope="module")
def rewards(workers):
    workers.ensure()
    cards = [{"kind": "custom", "path": f"{__name__}:Sleeps", "weight": 2.0}, {"kind": "pattern", "pattern": ".*"}]
    yield RewardWorkers(config(rewards=cards, reward_timeout_s=90.0, generator={"ping_s": 3.0}), workers)
    workers.release("rewards:")


def test_what_is_done_first_comes_first_and_scores_have_their_parts(rewards, tmp_path):
    rewards.submit("slow", prompt(0), drawn("0", str(tmp_path / "go")))
    for row in range(1, 4):
        rewards.submit(row, prompt(row), drawn("0", "0"))
    found = []
    while len(found) < 4:
        found += rewards.poll(5.0)
        if len(found) == 3:
            (tmp_path / "go").touch()
    assert [key for key, _ in found][-1] == "slow" and {key for key, _ in found} == {"slow", 1, 2, 3}
    for _, rollouts in found:
        assert [one.score.value for one in rollouts] == [2.2, 2.2]
        assert {name: part.value for name, part in rollouts[0].parts.items()} == {"Sleeps": 1.0, "pattern": 0.2}
    assert rewards.num_waiting == 0 and rewards.poll(0.0) == []


def test_scores_of_some_prompts_leave_what_else_is_under_way_alone(rewards):
    rewards.submit("mine", prompt(7), drawn("0"))
    found = rewards.score([prompt(0), prompt(1)], [drawn("0.1"), drawn("0", "0")])
    assert [(one.prompt.row, one.score.value) for one in found] == [(0, 2.2), (1, 2.2), (1, 2.2)]
    ((key, (rollout,)),) = rewards.poll(60.0)
    assert key == "mine" and rollout.prompt == prompt(7)


def test_what_nobody_asks_for_any_more_does_not_come(rewards):
    for row in range(6):
        rewards.submit(row, prompt(row), drawn("0.2"))
    for row in range(5):
        rewards.cancel(row)
    assert [key for key, _ in rewards.poll(60.0)] == [5] and rewards.num_waiting == 0


def test_an_answer_to_what_was_cancelled_is_not_taken_for_a_later_one(rewards):
    for row in range(2):
        rewards.submit(row, prompt(row), drawn("1"))
    for row in range(2):
        rewards.cancel(row)
        rewards.submit(row, prompt(10 + row), drawn("0.1", "0"))
    found: dict = {}
    while len(found) < 2:
        found.update(rewards.poll(60.0))
    assert {key: [one.prompt.row for one in rollouts] for key, rollouts in found.items()} == {0: [10, 10], 1: [11, 11]}


def test_an_actor_that_is_busy_for_an_earlier_stage_is_made_again(rewards, tmp_path):
    """Its next task would wait for a thread, and so would its word that it lives."""
    crew, before = rewards._crew, list(rewards._crew._actors)
    rewards.submit("old", prompt(0), drawn(str(tmp_path / "never")))
    crew.poll(0.0)
    (busy,) = {place for place, _, _ in crew._running.values()}
    rewards.cancel("old")
    crew.begin(silent_s=3.0, start_s=30.0)
    assert [now is old for now, old in zip(crew._actors, before, strict=True)] == [place != busy for place in range(len(before))]
    ((rollout,),) = [rewards.score([prompt(1)], [drawn("0")])]
    assert rollout.score.value == 2.2


@pytest.mark.parametrize("how", [signal.SIGKILL, signal.SIGSTOP])
def test_an_actor_that_is_killed_or_stands_still_owes_nothing(rewards, how):
    import ray

    actor = rewards._crew._actors[0]
    pid = ray.get(actor.__ray_call__.remote(lambda self: os.getpid()))
    for row in range(4):
        rewards.submit(row, prompt(row), drawn("0.3"))
    os.kill(pid, how)
    found: dict = {}
    while len(found) < 4:
        found.update(rewards.poll(60.0))
    assert all(one.score.value == 2.2 for rollouts in found.values() for one in rollouts)
    assert rewards._crew._actors[0] is not actor
    if how is signal.SIGSTOP:
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
