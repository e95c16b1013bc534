"""Reward workers: rewards run in processes that can be killed and restarted."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raylm.core.config import digest_of
from raylm.core.errors import RaylmError, StageError
from raylm.core.workers import Workers
from raylm.inference.calls import how_it_ended
from raylm.inference.completions import Completion
from raylm.rl.config import RL
from raylm.rl.rewards.worker import RewardWorker
from raylm.rl.types import Prompt, Rollout, Score, Trajectory, Unscored

MOST_LOST = 3
"""Times in an iteration that the rewards' process is lost and made again; what is then left is not asked."""
MOST_LOST_AT_FIRST = 2
"""The same as long as nothing has been scored at all."""
MOST_WORN = 3
"""Iterations in a row, each with more losses than that, after which the run ends."""
START_S = 120.0
"""Seconds for the start of the process and the imports of somebody else's rewards."""

Found = Sequence[Score | Unscored]


class RewardWorkers:
    """Rewards, in a process that can be killed: one that hangs or crashes costs its prompt, not the run."""

    def __init__(self, cfg: RL, workers: Workers) -> None:
        self._cards, self._timeout_s, self._workers = list(cfg.rewards), cfg.reward_timeout_s, workers
        self._key = f"rewards:{digest_of([card.identity() for card in cfg.rewards])}"
        self._any, self._worn = False, 0

    def score(self, prompts: list[Prompt], completions: list[list[Completion]]) -> list[Rollout]:
        """Every completion with the sum of its rewards, or with the reason why it has none.

        Raises:
            ConfigError: a reward cannot be made.
            StageError: the rewards' process was lost again and again, iteration after iteration.
        """
        if not self._cards:
            # an algorithm that needs no reward learns from all
            return [
                Rollout(prompt, Trajectory.of(c), Score(0.0, "no reward was asked"))
                for prompt, group in zip(prompts, completions, strict=True)
                for c in group
            ]
        found: list[Found] = []
        lost = 0
        while len(found) < len(prompts):
            answered, why = self._ask(prompts[len(found) :], completions[len(found) :])
            found += answered
            self._any = self._any or any(isinstance(one, Score) for group in answered for one in group)
            if why is None:
                continue
            # the process answers in order: the first prompt without an answer is the one it hangs on
            found.append([why] * len(completions[len(found)]))
            self._workers.release(self._key)
            lost += 1
            if lost > MOST_LOST or (not self._any and lost >= MOST_LOST_AT_FIRST):
                rest = Unscored(
                    "not_asked", f"the rewards' process was lost {lost} times in this iteration; the last time {why.why}"
                )
                found += [[rest] * len(group) for group in completions[len(found) :]]
        self._wear(lost, found)
        return [
            Rollout(prompt, Trajectory.of(c), *_either(group_found[place]))
            for prompt, group, group_found in zip(prompts, completions, found, strict=True)
            for place, c in enumerate(group)
        ]

    def _wear(self, lost: int, found: list[Found]) -> None:
        self._worn = self._worn + 1 if lost > MOST_LOST else 0
        if self._worn == MOST_WORN:
            why = next(one.why for group in reversed(found) for one in group if isinstance(one, Unscored))
            raise StageError(
                f"the rewards' process was lost more than {MOST_LOST} times in each of {MOST_WORN} iterations in a row: {why}",
                where="rewards",
                next="mend the reward, or raise reward_timeout_s; the same command goes on from the last step checkpoint",
            )

    def _make(self) -> Any:
        import ray

        remote: Any = ray.remote(RewardWorker)
        return remote.options(num_cpus=0).remote(self._cards)

    def _ask(self, prompts: list[Prompt], completions: list[list[Completion]]) -> tuple[list[Found], Unscored | None]:
        """Scores of the first prompts, up to one that does not answer in time or ends the process, and why it did not."""
        reward_worker, why = self._started()
        found: list[Found] = []
        if why is not None:
            return found, why
        for prompt, group in zip(prompts, completions, strict=True):
            # one after the other: each has the whole time for itself, and of several under way the end of the process would
            # take answers along that were given before it
            answer, why = _answer(reward_worker.score.remote(prompt, [c.text for c in group]), self._timeout_s)
            if why is not None:
                break
            found.append(answer)
        return found, why

    def _started(self) -> tuple[Any, Unscored | None]:
        """The process, which answers; made again when the held one was lost while nothing was asked of it."""
        import ray

        for held in (self._workers.holds(self._key), False):
            reward_worker = self._workers.hold(self._key, self._make, ray.kill)
            _, why = _answer(reward_worker.ready.remote(), START_S)
            if why is None or not held:
                return reward_worker, why
            self._workers.release(self._key)
        raise AssertionError("unreachable")


def _answer(task: Any, timeout_s: float) -> tuple[Any, Unscored | None]:
    import ray
    from ray.exceptions import RayError, RayTaskError

    if not ray.wait([task], timeout=timeout_s)[0]:
        return None, Unscored("timed_out", f"a reward did not answer within {timeout_s:g} s")
    try:
        return ray.get(task), None
    except RayTaskError as cause:
        inner = getattr(cause, "cause", cause)
        if isinstance(inner, RaylmError):
            raise inner from None
        raise StageError(f"the rewards' process failed: {str(inner).splitlines()[-1]}", where="rewards") from None
    except RayError as cause:
        return None, Unscored("died", f"a reward ended its process: {how_it_ended(cause)}")


def _either(one: Score | Unscored) -> tuple[Score | None, Unscored | None]:
    return (one, None) if isinstance(one, Score) else (None, one)
