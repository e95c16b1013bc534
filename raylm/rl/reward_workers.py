"""Reward workers, as the driver sees them: trajectories go in, rollouts with scores come out, as they are done.

submit(key, prompt, trajectories) --> reward workers: rewards of texts, each worker a process that can be killed
                                  '-> actors of rewards with a role: reward models, judges
poll(timeout_s) <-- weighed sum of all parts, or the reason why there is none
"""

from __future__ import annotations

import time
from collections.abc import Callable, Hashable, Sequence
from itertools import count
from typing import Any

from raylm.core.config import digest_of, resolve
from raylm.core.errors import StageError
from raylm.core.workers import Workers
from raylm.inference.completions import Completion
from raylm.rl.config import RL
from raylm.rl.rewards.combine import rollout_of
from raylm.rl.rewards.crew import PING_EVERY_S, Crew, Task
from raylm.rl.rewards.reward import names_of, role_of
from raylm.rl.rewards.role_worker import RoleWorker, Where
from raylm.rl.rewards.supervisor import Answered
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

    def __init__(self, key: Hashable, number: int, prompt: Prompt, trajectories: list[Trajectory], cards: int) -> None:
        self.key, self.prompt, self.trajectories = key, prompt, trajectories
        self.number = number
        """Its own: an answer that comes late is not taken for one to the same key asked again."""
        self.found: list[Any] = [None] * cards
        self.token_rewards: dict[int, list[Any]] = {}

    def take(self, place: int, found: list[Found], token_rewards: list[Any] | None = None) -> None:
        """What the reward at `place` says."""
        self.found[place] = found
        if token_rewards is not None:
            self.token_rewards[place] = token_rewards

    def fail(self, places: Sequence[int], why: Unscored) -> None:
        """What these rewards have no answer to, for one reason."""
        for place in places:
            self.take(place, [why] * len(self.trajectories))


class RewardWorkers:
    """Rewards, in processes that can be killed: one that hangs or crashes costs its completion, not the run.

    Args:
        where: what a reward with a role is told of the run, given the name of its own model.
    """

    def __init__(self, cfg: RL, workers: Workers, where: Callable[[str], Where] | None = None) -> None:
        self._cards = list(cfg.rewards)
        self._names, self._weights = names_of(self._cards), [card.weight for card in self._cards]
        self._done: list[tuple[Hashable, list[Rollout]]] = []
        self._numbers, self._keys = count(), set[Hashable]()
        self._under_way: dict[Hashable, _Group] = {}
        """By their numbers."""
        self._any, self._lost, self._worn = False, 0, 0
        roles = [role_of(card) for card in self._cards]
        self._texts = [place for place, role in enumerate(roles) if role is None]
        """Places of rewards that run in reward workers; the others have actors of their own."""
        self._crew = self._hold(cfg, workers) if self._texts else None
        self._crews = {
            place: _hold_role(workers, self._names[place], self._cards[place], role, where)
            for place, role in enumerate(roles)
            if role is not None
        }

    def _hold(self, cfg: RL, workers: Workers) -> Crew:
        """The workers of these cards, held from stage to stage; they make their rewards while generators start."""
        cards = [self._cards[place] for place in self._texts]
        memory = None if cfg.reward_memory_gb is None else int(cfg.reward_memory_gb * 1e9)
        arguments = (cards, cfg.reward_timeout_s, cfg.reward_start_s, memory)
        identity = digest_of([[card.identity() for card in cards], *map(str, arguments[1:])])
        key = f"rewards:{cfg.reward_workers} of {identity}"
        if not workers.holds(key):
            workers.release("rewards:")
        depth = DEPTH_ASYNC if any(_may_wait(card) for card in cards) else 1

        def make(place: int) -> Any:
            import ray

            # one thread more, which says that it lives
            options = {"num_cpus": 0, "max_concurrency": depth + 1, "scheduling_strategy": "SPREAD"}
            remote: Any = ray.remote(RewardWorker)
            return remote.options(**options).remote(*arguments)

        crew = workers.hold(key, lambda: Crew(make, cfg.reward_workers, depth), Crew.close)
        crew.begin(silent_s=cfg.generator.ping_s, start_s=cfg.reward_start_s)
        return crew

    @property
    def num_waiting(self) -> int:
        """Prompts whose trajectories are being scored."""
        return len(self._under_way)

    def submit(self, key: Hashable, prompt: Prompt, trajectories: Sequence[Trajectory]) -> None:
        """Score these trajectories of one prompt; `poll` brings them back under `key`, which must be new."""
        if key in self._keys:
            raise StageError(f"the trajectories {key!r} are being scored already", where="rewards.submit")
        group = _Group(key, next(self._numbers), prompt, list(trajectories), len(self._cards))
        self._under_way[group.number] = group
        self._keys.add(key)
        if not self._cards or not group.trajectories:
            self._finish(group)
            return
        # a reward reads texts, and tokens at most
        drawn = [each._replace(logprobs=[], versions=()) for each in group.trajectories]
        if self._crew is not None:
            self._crew.add(Task(group.number, (prompt._replace(tokens=[]), drawn)))
        for crew in self._crews.values():
            crew.add(Task(group.number, (prompt, drawn)))

    def cancel(self, key: Hashable) -> None:
        """Nobody asks for these scores any more."""
        for group in [group for group in self._under_way.values() if group.key == key]:
            self._forget(group)
            for crew in (*([self._crew] if self._crew else []), *self._crews.values()):
                crew.drop(group.number)

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
        """Take what rewards have answered; waits for the first of it."""
        crews = [*([self._crew] if self._crew else []), *self._crews.values()]
        waited = [reference for crew in crews for reference in crew.references]
        if waited and timeout_s > 0:
            import ray

            # not longer: those that say nothing are to be asked
            ray.wait(waited, num_returns=1, timeout=min(timeout_s, PING_EVERY_S))
        if self._crew is not None:
            for task, answer in self._crew.poll(0.0):
                self._take_texts(task, answer)
            self._crew.hand_out()
        for place, crew in self._crews.items():
            for task, answer in crew.poll(0.0):
                if group := self._under_way.get(task.key):
                    if isinstance(answer, Unscored):
                        group.fail([place], answer)
                    else:
                        group.take(place, answer.found, answer.token_rewards)
                    self._finish(group)
            crew.hand_out()

    def _take_texts(self, task: Task, answer: Answered | Unscored) -> None:
        """What the rewards of texts say of one prompt's trajectories."""
        group = self._under_way.get(task.key)
        if group is None:
            return
        if isinstance(answer, Unscored):
            group.fail(self._texts, answer)
        else:
            for place, found in zip(self._texts, answer.found, strict=True):
                group.take(place, found)
        self._finish(group)
        self._wear(isinstance(answer, Unscored) or answer.lost > 0, group)

    def _finish(self, group: _Group) -> None:
        """Put the parts together, if all are there."""
        if group.trajectories and any(found is None for found in group.found):
            return
        # what goes to single tokens is reported, and no part of the score
        weights = [0.0 if place in group.token_rewards else weight for place, weight in enumerate(self._weights)]
        rollouts = []
        for at, drawn in enumerate(group.trajectories):
            of_tokens = [(self._weights[place], rows[at]) for place, rows in group.token_rewards.items() if rows[at] is not None]
            found = [found[at] for found in group.found]
            rollouts.append(rollout_of(group.prompt, drawn, self._names, weights, found, of_tokens))
        self._done.append((group.key, rollouts))
        self._forget(group)

    def _forget(self, group: _Group) -> None:
        del self._under_way[group.number]
        self._keys.discard(group.key)

    def _wear(self, lost: bool, group: _Group) -> None:
        """Give up what waits where rewards end one process after the other; the run, where that goes on and on."""
        texts = [one for place in self._texts for one in group.found[place]]
        if any(isinstance(one, Score) for one in texts):
            self._any, self._lost, self._worn = True, 0, 0
            return
        self._lost += lost
        if self._lost < (MOST_LOST if self._any else MOST_LOST_AT_FIRST):
            return
        why = next(one.why for one in texts if isinstance(one, Unscored))
        self._lost, self._worn = 0, self._worn + 1
        if self._worn == MOST_WORN:
            raise StageError(
                f"the rewards' processes were lost again and again, and nothing was scored in between: {why}",
                where="rewards",
                next="mend the reward, or raise reward_timeout_s; the same command goes on from the last step checkpoint",
            )
        assert self._crew is not None
        for number in self._crew.drop_waiting():
            waiting = self._under_way[number]
            rest = Unscored(
                "not_asked", f"rewards' processes were lost for {MOST_LOST_AT_FIRST} prompts or more; the last: {why}"
            )
            waiting.fail(self._texts, rest)
            self._finish(waiting)


def _hold_role(workers: Workers, name: str, card: Any, role: Any, where: Callable[[str], Where] | None) -> Crew:
    """The actors of a reward with a role of its own, held from stage to stage."""
    made = resolve(card)
    told = where(made.model) if where is not None else Where(made.model, made.model)
    part, depth = f"reward_{name}", getattr(made, "depth", 1)
    key = f"{part}:{digest_of([card.identity(), *told])} {role.count} x {role.cpus:g} CPU, {role.gpus:g} GPU;"
    if not workers.holds(key):
        workers.release(f"{part}:")

    def make(place: int) -> Any:
        import ray

        where = workers.place(part, role, f"the reward {name}", place)
        options = {"num_cpus": role.cpus, "num_gpus": role.gpus, "max_concurrency": depth + 1, "scheduling_strategy": where}
        remote: Any = ray.remote(RoleWorker)
        actor = remote.options(**options).remote(card, told)
        actor.start.remote()  # what it raises comes again with the first scores
        return actor

    crew = workers.hold(key, lambda: Crew(make, role.count, depth), Crew.close)
    crew.begin(silent_s=made.timeout_s, start_s=made.start_s, task_s=made.timeout_s)
    return crew


def _may_wait(card: Any) -> bool:
    """Whether a reward is async, as far as that is known before its process has made it."""
    import inspect

    from raylm.rl.rewards.calling import METHODS

    made = resolve(card)
    methods = [getattr(made, name, None) for name in METHODS]
    return bool(getattr(made, "waits", False)) or any(inspect.iscoroutinefunction(method) for method in methods)
