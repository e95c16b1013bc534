"""Takes samplers, judges and learners, leaves a better policy: the RL loop, on the driver.

prompts(step) --> samplers.draw --> judges.score --> algorithm.credit --> learners.update
                      ^                                                        |
                      +------------ weights, version step + 1 -----------------+
"""

from __future__ import annotations

import time
from collections.abc import Callable
from typing import Any

from raylm.core.config import digest_of, resolve
from raylm.core.errors import PlacementError
from raylm.data.order import batch_indices
from raylm.model.sampler import Completion
from raylm.rl.config import RL
from raylm.rl.placement import Judges, Learners, Samplers
from raylm.rl.types import Prompt, Rollout

MOST_STARTS = 4
"""Times that the learner is built, from a step checkpoint, without a new round in between."""


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
        self._starts, self._furthest = 0, -1

    def run(self) -> dict[str, float]:
        """Go on from the newest step checkpoint to the last round; returns held-out metrics, before and after."""
        step = self._restore()
        while step < self._cfg.steps or not self._averaged():
            if step == self._cfg.steps:
                step = self._restore()
                continue
            clock = [time.perf_counter()]
            prompts, drawn = self._draw(step)
            clock.append(time.perf_counter())
            rollouts = self._judges.score(prompts, drawn)
            clock.append(time.perf_counter())
            samples = self._algorithm.credit(rollouts)
            stats = self._learners.update(samples)
            clock.append(time.perf_counter())
            weights = None if stats is None else self._learners.weights()
            if stats is None or weights is None:
                step = self._restore()
                continue
            self._samplers.load(weights, version=step + 1)
            clock.append(time.perf_counter())
            # a round whose groups all scored alike has no samples, hence no KL and no other figure of the algorithm
            self._log(step, **_reward_metrics(rollouts), samples=len(samples), **stats, **_seconds(clock))
            if step > self._furthest:
                self._starts, self._furthest = 0, step
            step += 1
            if step % self._cfg.save_every == 0 or step == self._cfg.steps:
                self._flush()
                self._learners.save({"before": self._before})
        after = self._measure()
        return {
            **{f"{name}_before": value for name, value in self._before.items()},
            **{f"{name}_after": value for name, value in after.items()},
        }

    def _draw(self, step: int) -> tuple[list[Prompt], list[list[Completion]]]:
        # a batch that reaches over the end of an epoch may name a row twice; asked once, its group stays one group
        rows = list(dict.fromkeys(batch_indices(len(self._prompts), self._cfg.prompts_per_step, step, self._cfg.seed)))
        prompts = [self._prompts[row] for row in rows]
        # a draw depends on seed, round and row alone: a resumed run draws what the uninterrupted one would have drawn
        seeds = [int(digest_of([self._cfg.seed, step, row])[:12], 16) for row in rows]
        return prompts, self._samplers.draw(prompts, seeds, self._algorithm.group, self._cfg.temperature)

    def _restore(self) -> int:
        weights = None
        while weights is None:
            # a rank that dies between the two takes the learner with it
            self._starts += 1
            if self._starts > MOST_STARTS:
                raise PlacementError(
                    f"the learner was lost {MOST_STARTS} times without a new round in between",
                    next="were its ranks out of memory? lower micro_batch, or give them more",
                )
            facts = self._learners.restore()
            weights = self._learners.weights()
        step = facts["step"] if facts else 0
        self._rewind(step)
        self._samplers.load(weights, version=step)
        self._before = facts["before"] if facts else self._measure()
        return step

    def _averaged(self) -> bool:
        """Hand the sampler the moving average, which is measured and exported; False when the group that held it is gone."""
        weights = self._learners.weights(averaged=True) if self._cfg.ema else None
        if weights is not None:
            self._samplers.load(weights, version=self._cfg.steps)
        return weights is not None or not self._cfg.ema

    def _measure(self) -> dict[str, float]:
        """Mean reward of greedy answers to the held-out prompts."""
        if not self._held_out:
            return {}
        answers = self._samplers.draw(self._held_out, [0] * len(self._held_out), 1, 0.0)
        return {f"held_out_{name}": value for name, value in _reward_metrics(self._judges.score(self._held_out, answers)).items()}


def _seconds(clock: list[float]) -> dict[str, float]:
    """Where a round's time went."""
    names = ("draw_s", "score_s", "update_s", "sync_s")
    return {name: round(after - before, 3) for name, before, after in zip(names, clock, clock[1:], strict=False)}


def _reward_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    scored = [rollout for rollout in rollouts if rollout.score is not None]
    count = max(len(scored), 1)
    return {
        "reward": sum(rollout.score.value for rollout in scored if rollout.score) / count,
        "finished_share": sum(rollout.finished for rollout in scored) / count,
        "completion_tokens": sum(len(rollout.tokens) for rollout in scored) / count,
        "unscored": float(len(rollouts) - len(scored)),
    }
