"""Reward workers that are lost while they score: seconds until the next completions are, and whether all were scored once and
right. A worker is an actor, and beside it the process in which rewards run; each of the two is ended, and stopped."""

from __future__ import annotations

import contextlib
import os
import signal
import time
from typing import Any

from raylm.core.workers import Workers
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.types import Prompt, Rollout, Trajectory
from tests.rl.samples import config

TIMEOUT_S, START_S, PING_S = 2.0, 10.0, 3.0
"""Of a call of a reward, of a start of its process, in which that must take up a call too, and of a word of a worker's actor."""
GROUPS, COMPLETIONS = 12, 4


class Slowly:
    """Scores a completion by the number that it says, so slowly that a loss meets it at work."""

    def score(self, prompt: str, completion: str, ground_truth: str | None) -> float:
        time.sleep(0.05)
        return float(completion)


def recoveries(workers: Workers, ends: dict[str, signal.Signals]) -> tuple[dict[str, float], bool]:
    """Seconds by who was lost and how, and whether what came was right."""
    found, quality = {}, True
    for who in ("worker", "process"):
        for name, how in ends.items():
            seconds, unscored, right = _recovery(workers, who, how)
            found[f"reward_{who}_{name}_s"] = seconds
            # an actor's completions are scored by its successor; a process takes the one along that it scored
            quality &= right and unscored <= (who == "process")
            print(f"reward {who}, {name}: {seconds:.2f} s, {unscored} completions without a score, right: {right}", flush=True)
            workers.release("rewards:")
    return found, quality


def _recovery(workers: Workers, who: str, how: signal.Signals) -> tuple[float, int, bool]:
    import ray

    cards = [{"kind": "custom", "path": f"{__name__}:Slowly"}]
    rewards = RewardWorkers(
        config(
            rewards=cards,
            reward_workers=1,
            reward_timeout_s=TIMEOUT_S,
            reward_start_s=START_S,
            reward_memory_gb=4.0,
            generator={"ping_s": PING_S},
        ),
        workers,
    )
    for row in range(GROUPS):
        drawn = [Trajectory([5], [-1.0], str(row + 0.1 * place), "stop") for place in range(COMPLETIONS)]
        rewards.submit(row, Prompt(row, [1, 2], "[]", None), drawn)
    came = _next(rewards, "the start")
    assert rewards._crew
    actor: Any = rewards._crew._actors[0]
    pids: tuple[int, int] = ray.get(actor.__ray_call__.remote(lambda self: (os.getpid(), self._supervisor._pid)))
    # the next group was handed out by the poll, and takes 0.2 s
    assert min(pids) > 1, "the rewards' process has ended by itself"
    os.kill(pids[who == "process"], how)
    began, seconds = time.perf_counter(), 0.0
    while len(came) < GROUPS:
        got = _next(rewards, f"{who}, {how.name}")
        seconds = seconds or time.perf_counter() - began
        came += got
    scores = [(key + 0.1 * place, one.score) for key, group in came for place, one in enumerate(group)]
    right = sorted(key for key, _ in came) == list(range(GROUPS))
    right &= all(score is None or abs(score.value - wanted) < 1e-9 for wanted, score in scores)
    for pid in pids:  # one that is stopped would stay so
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    return seconds, sum(score is None for _, score in scores), right


def _next(rewards: RewardWorkers, after: str) -> list[tuple[Any, list[Rollout]]]:
    """What is done next; looked for as often as the loop does."""
    until = time.monotonic() + 60.0
    while not (got := rewards.poll(1.0)):
        assert time.monotonic() < until, f"nothing came in 60 s after {after}"
    return got
