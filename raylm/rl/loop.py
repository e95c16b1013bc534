"""Takes samplers, judges and learners, leaves a better policy: the RL loop, on the driver.

prompts(step) --> samplers.draw --> judges.score --> algorithm.credit --> learners.update
                      ^                                                        |
                      +------------ weights, version step + 1 -----------------+

A lost rank takes the loop back to the newest step checkpoint. A lost sampler does not: a fresh one is handed the learner's
weights, and what was asked of the lost one is asked again.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from raylm.core.config import digest_of, resolve
from raylm.core.errors import PlacementError
from raylm.data.order import batch_indices
from raylm.model.sampler import Completion, SamplerLost
from raylm.rl.config import RL
from raylm.rl.judges import Judges
from raylm.rl.placement import Learners, Samplers
from raylm.rl.rounds import Rounds, reward_metrics
from raylm.rl.types import Prompt, Rollout

MOST_STARTS = 4
"""Times that the learner is built, from a step checkpoint, without a new round in between."""
MOST_LOST = 3
"""Samplers that are lost without a new round in between, before the run ends."""


class Loop:
    """One run of the loop.

    Args:
        prompts, held_out: rows to learn from, and rows to measure on.
        log, rewind: where metrics rows go, and who is told the round from which the loop goes on.
        flush: sees to it that the rows are on file; called before each save.
    """

    def __init__(
        self,
        cfg: RL,
        samplers: Samplers,
        judges: Judges,
        learners: Learners,
        prompts: list[Prompt],
        held_out: list[Prompt],
        log: Callable[..., None],
        rewind: Callable[[int], None],
        flush: Callable[[], None],
    ) -> None:
        self._cfg, self._samplers, self._judges, self._learners = cfg, samplers, judges, learners
        self._prompts, self._held_out, self._log, self._rewind, self._flush = prompts, held_out, log, rewind, flush
        self._algorithm: Any = resolve(cfg.algorithm)
        self._before: dict[str, float] = {}
        self._rounds = Rounds()
        self._starts, self._furthest, self._lost = 0, -1, 0

    def run(self) -> dict[str, float]:
        """Go on from the newest step checkpoint to the last round; returns held-out metrics, before and after.

        Raises:
            StageError: nothing could be scored in a round.
            TrainingError: round after round, or in the whole run, nothing was learned.
            PlacementError: learner or sampler were lost again and again.
        """
        step = self._restore()
        while True:
            if step < self._cfg.steps:
                step = self._round(step)
                continue
            self._rounds.check_end()
            after = self._averaged_measure()
            if after is not None:
                return {
                    **{f"{name}_before": value for name, value in self._before.items()},
                    **{f"{name}_after": value for name, value in after.items()},
                }
            step = self._restore()

    def _round(self, step: int) -> int:
        """One round; returns the number of the next, an earlier one when the learner was lost."""
        clock = [time.perf_counter()]
        prompts, seeds = self._asked(step)
        drawn = self._draw(prompts, seeds, self._algorithm.group, self._cfg.temperature, version=step)
        if drawn is None:
            return self._restore()
        clock.append(time.perf_counter())
        rollouts = self._judges.score(prompts, drawn)
        self._rounds.check_scores(rollouts, f"round {step}")
        clock.append(time.perf_counter())
        samples = self._algorithm.credit(rollouts)
        stats = self._learners.update(samples)
        clock.append(time.perf_counter())
        if stats is None or not self._sync(version=step + 1):
            return self._restore()
        clock.append(time.perf_counter())
        # a round whose groups all scored alike has no samples, hence no KL and no other figure of the algorithm
        self._log(step, **reward_metrics(rollouts), samples=len(samples), **stats, **_seconds(clock))
        if step > self._furthest:
            self._starts, self._furthest, self._lost = 0, step, 0
        self._rounds.count(step, rollouts, len(samples), bool(stats["finite"]))
        step += 1
        if step % self._cfg.save_every == 0 or step == self._cfg.steps:
            self._flush()
            self._learners.save({"before": self._before, "learned": self._rounds.learned})
        return step

    def _asked(self, step: int) -> tuple[list[Prompt], list[int]]:
        """Prompts and seeds of a round."""
        # a batch that reaches over the end of an epoch may name a row twice; asked once, its group stays one group
        rows = list(dict.fromkeys(batch_indices(len(self._prompts), self._cfg.prompts_per_step, step, self._cfg.seed)))
        # a draw depends on seed, round and row alone: a resumed run draws what the uninterrupted one would have drawn
        return [self._prompts[row] for row in rows], [int(digest_of([self._cfg.seed, step, row])[:12], 16) for row in rows]

    def _draw(
        self, prompts: list[Prompt], seeds: list[int], group: int, temperature: float, version: int, averaged: bool = False
    ) -> list[list[Completion]] | None:
        """Completions by the weights of `version`, whatever becomes of samplers meanwhile; None when the learner is lost too."""
        while True:
            try:
                return self._samplers.draw(prompts, seeds, group, temperature)
            except SamplerLost as lost:
                self._replace(lost)
                if not self._sync(version, averaged):
                    return None

    def _sync(self, version: int, averaged: bool = False) -> bool:
        """Hand the learner's weights, or their moving averages, to the sampler; False when the group that held them is gone."""
        while True:
            weights = self._learners.weights(averaged=averaged)
            if weights is None:
                return False
            try:
                self._samplers.load(weights, version=version)
                return True
            except SamplerLost as lost:
                self._replace(lost)

    def _replace(self, lost: SamplerLost) -> None:
        """A fresh sampler in place of the lost one. Raises PlacementError when that happens too often without a new round."""
        while True:
            self._lost += 1
            if self._lost > MOST_LOST:
                raise PlacementError(
                    f"the sampler was lost {self._lost} times without a new round in between, the last time: {lost.what}",
                    where=lost.where,
                    next="was it out of memory? lower max_tokens or prompts_per_step; was it slow? raise sampler.hang_s",
                ) from lost
            print(f"  {lost.what}; a fresh one takes the learner's weights and goes on ({self._lost})", file=sys.stderr)
            try:
                return self._samplers.replace()
            except SamplerLost as again:
                lost = again

    def _restore(self) -> int:
        while True:
            # a rank that dies between the two takes the learner with it
            self._starts += 1
            if self._starts > MOST_STARTS:
                raise PlacementError(
                    f"the learner was lost {MOST_STARTS} times without a new round in between",
                    next="were its ranks out of memory? lower micro_batch, or give them more",
                )
            facts = self._learners.restore()
            step = facts["step"] if facts else 0
            if not self._sync(version=step):
                continue
            self._rewind(step)
            # a checkpoint of before this was counted says nothing of it: it is taken for one that learned
            self._rounds.go_on_from(facts.get("learned", 1) if facts else 0)
            before = facts["before"] if facts else self._measure(step)
            if before is not None:
                self._before = before
                return step

    def _averaged_measure(self) -> dict[str, float] | None:
        """Held-out metrics of what is exported, the moving average where one is kept; None when the learner is lost."""
        averaged = self._cfg.ema is not None
        if averaged and not self._sync(self._cfg.steps, averaged=True):
            return None
        return self._measure(self._cfg.steps, averaged)

    def _measure(self, version: int, averaged: bool = False) -> dict[str, float] | None:
        """Mean reward of greedy answers to the held-out prompts; None when the learner is lost."""
        if not self._held_out:
            return {}
        answers = self._draw(self._held_out, [0] * len(self._held_out), 1, 0.0, version, averaged)
        if answers is None:
            return None
        rollouts: list[Rollout] = self._judges.score(self._held_out, answers)
        self._rounds.say(rollouts, "the held-out prompts")
        return {f"held_out_{name}": value for name, value in reward_metrics(rollouts).items()}


def _seconds(clock: list[float]) -> dict[str, float]:
    """Where a round's time went."""
    names = ("draw_s", "score_s", "update_s", "sync_s")
    return {name: round(after - before, 3) for name, before, after in zip(names, clock, clock[1:], strict=False)}
