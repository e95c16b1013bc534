"""The RL loop, on the driver: generators, reward workers and trainer make a better policy.

prompts(step) --> generators.generate --> rewards.score --> algorithm.advantages --> trainer.update
                      ^                                                        |
                      +------------ weights, version step + 1 -----------------+

A lost rank takes the loop back to the newest step checkpoint. A lost generator does not: `inference/pool.py` hands a fresh one
the trainer's weights and asks again what was asked of the lost one.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from functools import partial
from typing import Any

from raylm.core.config import digest_of, resolve
from raylm.core.errors import GroupLost, PlacementError
from raylm.data.order import batch_indices
from raylm.inference.generator import Completion
from raylm.rl.config import RL
from raylm.rl.iterations import Iterations, reward_metrics
from raylm.rl.placement import Generators, Trainer
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.types import Prompt, Rollout

MOST_STARTS = 4
"""Times that the trainer is built, from a step checkpoint, without a new iteration in between."""


class Loop:
    """One run of the loop.

    Args:
        prompts, held_out: rows to learn from, and rows to measure on.
        log, rewind: where metrics rows go, and who is told the iteration from which the loop goes on.
        flush: sees to it that the rows are on file; called before each save.
    """

    def __init__(
        self,
        cfg: RL,
        generators: Generators,
        reward_workers: RewardWorkers,
        trainer: Trainer,
        prompts: list[Prompt],
        held_out: list[Prompt],
        log: Callable[..., None],
        rewind: Callable[[int], None],
        flush: Callable[[], None],
    ) -> None:
        self._cfg, self._generators, self._reward_workers, self._trainer = cfg, generators, reward_workers, trainer
        self._prompts, self._held_out, self._log, self._rewind, self._flush = prompts, held_out, log, rewind, flush
        self._algorithm: Any = resolve(cfg.algorithm)
        self._before: dict[str, float] = {}
        self._iterations = Iterations()
        self._starts, self._furthest = 0, -1

    def run(self) -> dict[str, float]:
        """Go on from the newest step checkpoint to the last iteration; returns held-out metrics, before and after.

        Raises:
            StageError: nothing could be scored in a iteration.
            TrainingError: iteration after iteration, or in the whole run, nothing was learned.
            PlacementError: trainer or generator were lost again and again.
        """
        step = self._restore()
        while True:
            if step < self._cfg.iterations:
                step = self._iteration(step)
                continue
            self._iterations.check_end()
            after = self._averaged_measure()
            if after is not None:
                return {
                    **{f"{name}_before": value for name, value in self._before.items()},
                    **{f"{name}_after": value for name, value in after.items()},
                }
            step = self._restore()

    def _iteration(self, step: int) -> int:
        """One iteration; returns the number of the next, an earlier one when the trainer was lost."""
        clock = [time.perf_counter()]
        prompts, seeds = self._asked(step)
        completions = self._generate(prompts, seeds, self._algorithm.num_generations, self._cfg.temperature)
        if completions is None:
            return self._restore()
        clock.append(time.perf_counter())
        rollouts = self._reward_workers.score(prompts, completions)
        self._iterations.check_scores(rollouts, f"iteration {step}")
        clock.append(time.perf_counter())
        samples = self._algorithm.advantages(rollouts)
        stats = self._trainer.update(samples)
        clock.append(time.perf_counter())
        if stats is None or not self._sync(version=step + 1):
            return self._restore()
        clock.append(time.perf_counter())
        # a iteration whose groups all scored alike has no samples, hence no KL and no other figure of the algorithm
        self._log(step, **reward_metrics(rollouts), samples=len(samples), **stats, **_seconds(clock))
        if step > self._furthest:
            self._starts, self._furthest = 0, step
        self._iterations.count(step, rollouts, len(samples), bool(stats["finite"]))
        step += 1
        if step % self._cfg.save_every == 0 or step == self._cfg.iterations:
            self._flush()
            self._trainer.save({"before": self._before, "learned": self._iterations.learned})
        return step

    def _asked(self, step: int) -> tuple[list[Prompt], list[int]]:
        """Prompts and seeds of a iteration."""
        # a batch that reaches over the end of an epoch may name a row twice; asked once, its group stays one group
        rows = list(dict.fromkeys(batch_indices(len(self._prompts), self._cfg.prompts_per_iteration, step, self._cfg.seed)))
        # a draw depends on seed, iteration and row alone: a resumed run draws what the uninterrupted one would have completions
        return [self._prompts[row] for row in rows], [int(digest_of([self._cfg.seed, step, row])[:12], 16) for row in rows]

    def _generate(
        self, prompts: list[Prompt], seeds: list[int], num_generations: int, temperature: float
    ) -> list[list[Completion]] | None:
        """Completions by the weights of the last `_sync`; None when the trainer was lost and a fresh generator needs them."""
        try:
            return self._generators.generate(prompts, seeds, num_generations, temperature)
        except GroupLost:
            return None

    def _sync(self, version: int, averaged: bool = False) -> bool:
        """Hand the trainer's weights, or their moving averages, to the generators; False when the trainer is lost."""
        try:
            self._generators.sync(partial(self._trainer.send, averaged=averaged), version)
        except GroupLost:
            return False
        return True

    def _restore(self) -> int:
        while True:
            # a rank that dies between the two takes the trainer with it
            self._starts += 1
            if self._starts > MOST_STARTS:
                raise PlacementError(
                    f"the trainer was lost {MOST_STARTS} times without a new iteration in between",
                    next="were its ranks out of memory? lower micro_batch, or give them more",
                )
            facts = self._trainer.restore()
            step = facts["step"] if facts else 0
            if not self._sync(version=step):
                continue
            self._rewind(step)
            # a checkpoint of before this was counted says nothing of it: it is taken for one that learned
            self._iterations.go_on_from(facts.get("learned", 1) if facts else 0)
            before = facts["before"] if facts else self._measure()
            if before is not None:
                self._before = before
                return step

    def _averaged_measure(self) -> dict[str, float] | None:
        """Held-out metrics of what is exported, the moving average where one is kept; None when the trainer is lost."""
        averaged = self._cfg.ema is not None
        if averaged and not self._sync(self._cfg.iterations, averaged=True):
            return None
        return self._measure()

    def _measure(self) -> dict[str, float] | None:
        """Mean reward of greedy answers to the held-out prompts; None when the trainer is lost."""
        if not self._held_out:
            return {}
        answers = self._generate(self._held_out, [0] * len(self._held_out), 1, 0.0)
        if answers is None:
            return None
        rollouts: list[Rollout] = self._reward_workers.score(self._held_out, answers)
        self._iterations.say(rollouts, "the held-out prompts")
        return {f"held_out_{name}": value for name, value in reward_metrics(rollouts).items()}


def _seconds(clock: list[float]) -> dict[str, float]:
    """Where a iteration's time went."""
    names = ("draw_s", "score_s", "update_s", "sync_s")
    return {name: round(after - before, 3) for name, before, after in zip(names, clock, clock[1:], strict=False)}
