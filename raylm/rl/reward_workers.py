"""Reward workers, as the driver sees them: trajectories go in, rollouts with scores come out, as they are done.

submit(key, prompt, trajectories) --> reward workers: rewards of texts, each worker a process that can be killed
                                  '-> actors of rewards with a role: reward models, judges
poll(timeout_s) <-- weighed sum of all parts, or the reason why there is none
"""

from __future__ import annotations

import time
from collections.abc import Hashable, Sequence
from typing import Any

from raylm.core.config import digest_of, resolve
from raylm.core.errors import StageError
from raylm.core.workers import Workers
from raylm.inference.completions import Completion
from raylm.rl.config import RL
from raylm.rl.rewards.combine import rollout_of
from raylm.rl.rewards.crew import Crew, Task
from raylm.rl.rewards.reward import names_of
from raylm.rl.rewards.worker import RewardWorker
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, Unscored

MOST_LOST = 4
"""Prompts in a row that cost a process and have no score, after which those that wait are given back without being asked."""
MOST_LOST_AT_FIRST = 2
"""The same as long as nothing has been scored at all."""
MOST_WORN = 3
"""Times in a row that this happens, without one score in between, after which the run ends."""
DEPTH_ASYNC = 8
"""Prompts that one worker is asked about at the same time where a reward is async."""

Found = Score | Unscored


class _Group:
    """One prompt and what was drawn for it, until all rewards have answered."""

    def __init__(self, key: Hashable, prompt: Prompt, trajectories: list[Trajectory], cards: int) -> None:
        self.key, self.prompt, self.trajectories = key, prompt, trajectories
        self.found: list[Any] = [None] * cards


class RewardWorkers:
    """Rewards, in processes that can be killed: one that hangs or crashes costs its completion, not the run."""

    def __init__(self, cfg: RL, workers: Workers) -> None:
        self._cards = list(cfg.rewards)
        self._names, self._weights = names_of(self._cards), [card.weight for card in self._cards]
        self._done: list[tuple[Hashable, list[Rollout]]] = []
        self._under_way: dict[Hashable, _Group] = {}
        self._any, self._lost, self._worn = False, 0, 0
        self._crew: Crew | None = self._hold(cfg, workers) if self._cards else None

    def _hold(self, cfg: RL, workers: Workers) -> Crew:
        """The workers of these cards, held from stage to stage; they make their rewards while generators start."""
        memory = None if cfg.reward_memory_gb is None else int(cfg.reward_memory_gb * 1e9)
        arguments = (self._cards, cfg.reward_timeout_s, cfg.reward_start_s, memory)
        identity = digest_of([[card.identity() for card in self._cards], *map(str, arguments[1:])])
        key = f"rewards:{cfg.reward_workers} of {identity}"
        if not workers.holds(key):
            workers.release("rewards:")
        depth = DEPTH_ASYNC if any(_may_wait(card) for card in self._cards) else 1

        def make(place: int) -> Any:
            import ray

            # one thread more, which says that it lives
            options = {"num_cpus": 0, "max_concurrency": depth + 1, "scheduling_strategy": "SPREAD"}
            remote: Any = ray.remote(RewardWorker)
            return remote.options(**options).remote(*arguments)

        crew = workers.hold(key, lambda: Crew(make, cfg.reward_workers, depth), Crew.close)
        crew.begin(silent_s=max(cfg.reward_timeout_s, cfg.reward_start_s))
        return crew

    @property
    def num_waiting(self) -> int:
        """Prompts whose trajectories are being scored."""
        return len(self._under_way)

    def submit(self, key: Hashable, prompt: Prompt, trajectories: Sequence[Trajectory]) -> None:
        """Score these trajectories of one prompt; `poll` brings them back under `key`, which must be new."""
        if key in self._under_way:
            raise StageError(f"the trajectories {key!r} are being scored already", where="rewards.submit")
        group = _Group(key, prompt, list(trajectories), len(self._cards))
        self._under_way[key] = group
        if not self._cards or not group.trajectories:
            self._finish(group)
            return
        assert self._crew is not None
        # a reward reads texts, and tokens at most
        drawn = [each._replace(logprobs=[], versions=()) for each in group.trajectories]
        self._crew.add(Task(key, (prompt._replace(tokens=[]), drawn)))

    def cancel(self, key: Hashable) -> None:
        """Nobody asks for these scores any more."""
        if self._under_way.pop(key, None) is not None and self._crew is not None:
            self._crew.drop(key)

    def poll(self, timeout_s: float = 0.0) -> list[tuple[Hashable, list[Rollout]]]:
        """What is done, by key, each with its rollouts in the order of the trajectories; waits up to `timeout_s` seconds for
        the first of it.

        Raises:
            ConfigError: a reward cannot be made.
            StageError: rewards' processes were lost again and again.
        """
        until = time.monotonic() + timeout_s
        while True:
            self._collect(0.0 if self._done else max(until - time.monotonic(), 0.0))
            if self._done or not self._under_way or time.monotonic() >= until:
                done, self._done = self._done, []
                return done

    def score(self, prompts: list[Prompt], drawn: Sequence[Sequence[Completion | Trajectory]]) -> list[Rollout]:
        """All of them, in their order; what else is under way goes on beside it. Raises as `poll` does."""
        keys = [("score", time.monotonic_ns(), place) for place in range(len(prompts))]
        for key, prompt, group in zip(keys, prompts, drawn, strict=True):
            self.submit(key, prompt, [Trajectory.of(one) if isinstance(one, Completion) else one for one in group])
        found: dict[Hashable, list[Rollout]] = {}
        others: list[tuple[Hashable, list[Rollout]]] = []
        while len(found) < len(keys):
            for key, rollouts in self.poll(1.0):
                if key in keys:
                    found[key] = rollouts
                else:
                    others.append((key, rollouts))
        self._done = others + self._done
        return [rollout for key in keys for rollout in found[key]]

    def _collect(self, timeout_s: float) -> None:
        if self._crew is None:
            return
        for task, answer in self._crew.poll(timeout_s):
            group = self._under_way.get(task.key)
            if group is None:
                continue
            lost = isinstance(answer, Unscored) or answer.lost > 0
            if isinstance(answer, Unscored):
                group.found = [[answer] * len(group.trajectories) for _ in self._cards]
            else:
                group.found = answer.found
            self._finish(group)
            self._wear(lost, group)
        self._crew.hand_out()

    def _finish(self, group: _Group) -> None:
        parts = [found or [] for found in group.found]
        rollouts = [
            rollout_of(group.prompt, drawn, self._names, self._weights, [found[place] for found in parts])
            for place, drawn in enumerate(group.trajectories)
        ]
        self._done.append((group.key, rollouts))
        del self._under_way[group.key]

    def _wear(self, lost: bool, group: _Group) -> None:
        """Give up what waits where rewards end one process after the other; the run, where that goes on and on."""
        if any(isinstance(one, Score) for found in group.found for one in found or []):
            self._any, self._lost, self._worn = True, 0, 0
            return
        self._lost += lost
        if self._lost < (MOST_LOST if self._any else MOST_LOST_AT_FIRST):
            return
        why = next(one.why for found in group.found for one in found or [] if isinstance(one, Unscored))
        self._lost, self._worn = 0, self._worn + 1
        if self._worn == MOST_WORN:
            raise StageError(
                f"the rewards' processes were lost again and again, and nothing was scored in between: {why}",
                where="rewards",
                next="mend the reward, or raise reward_timeout_s; the same command goes on from the last step checkpoint",
            )
        assert self._crew is not None
        for key in self._crew.drop_waiting():
            waiting = self._under_way[key]
            rest = Unscored(
                "not_asked", f"rewards' processes were lost for {MOST_LOST_AT_FIRST} prompts or more; the last: {why}"
            )
            waiting.found = [[rest] * len(waiting.trajectories) for _ in self._cards]
            self._finish(waiting)


def _may_wait(card: Any) -> bool:
    """Whether a reward is async, as far as that is known before its process has made it."""
    import inspect

    from raylm.rl.rewards.calling import METHODS

    made = resolve(card)
    methods = [getattr(made, name, None) for name in METHODS]
    return bool(getattr(made, "waits", False)) or any(inspect.iscoroutinefunction(method) for method in methods)
