"""Metrics of RL iterations; a run whose iterations have no signal is ended with a reason."""

from __future__ import annotations

import sys
from collections import Counter

from raylm.core.errors import StageError, TrainingError
from raylm.rl.rollout_metrics import score_metrics
from raylm.rl.types import Rollout

MOST_BAD = 3
"""Iterations in a row whose gradient is not finite, or of which too little could be scored, after which a run ends."""
ALIKE = "all completions of each prompt scored alike"
MASKED = "the completions of each prompt that do not score alike were cut off (truncated)"
AGAIN = "mend what is wrong and run the same command: it goes on from the last step checkpoint"


class Iterations:
    """What the iterations of a run have taught so far."""

    def __init__(self) -> None:
        self.learned = 0
        """Iterations whose update changed the weights."""
        self._bad: list[str] = []
        self._alike, self._last = 0, ""
        self._why = ALIKE
        self._said: set[str] = set()

    def go_on_from(self, learned: int) -> None:
        """The run goes on from a step checkpoint whose weights hold `learned` updates."""
        self.learned, self._bad, self._alike = learned, [], 0

    def check_scores(self, rollouts: list[Rollout], where: str) -> None:
        """Say each kind of failure once. Raises StageError when none of the completions has a score."""
        if rollouts and all(rollout.unscored for rollout in rollouts):
            raise StageError(f"no completion could be scored: {_reasons(rollouts)}", where=where, next=AGAIN)
        self.say(rollouts, where)

    def say(self, rollouts: list[Rollout], where: str) -> None:
        """Say why completions have no score, each kind of failure once in a run."""
        new = {rollout.unscored.kind for rollout in rollouts if rollout.unscored} - self._said
        if new:
            self._said |= new
            print(f"  {where}: completions are left out, and counted as unscored: {_reasons(rollouts)}", file=sys.stderr)

    def count(
        self,
        step: int,
        rollouts: list[Rollout],
        samples: int,
        finite: bool,
        masked: int = 0,
        rejected: int = 0,
        changed: bool | None = None,
    ) -> None:
        """One more iteration. Raises TrainingError when the last few taught nothing because something is wrong.

        Args:
            samples: that it learned from.
            masked: that it would have learned from, had they not been cut off.
            rejected: that it would have learned from, had the algorithm not rejected them.
            changed: whether the policy's weights did, where that does not follow from samples and gradient.
        """
        unscored = sum(rollout.score is None for rollout in rollouts)
        bad = ""
        if not finite:
            bad = "its gradient is not finite"
        elif not samples and unscored:
            bad = f"{unscored} of {len(rollouts)} completions have no score, and those of each prompt that have one score alike"
        elif not samples and rejected:
            bad = (
                f"{rejected} completions were rejected by the algorithm's correction: generator and trainer are too far apart "
                "(mismatch_kl)"
            )
        self.learned += bool(samples) and finite if changed is None else changed
        self._bad = [*self._bad, f"iteration {step}: {bad}"] if bad else []
        self._last = self._bad[-1] if bad else self._last
        self._alike = 0 if samples or bad else self._alike + 1
        self._why = MASKED if masked and not samples else ALIKE
        if len(self._bad) == MOST_BAD:
            raise TrainingError(f"{MOST_BAD} iterations in a row were not learned from; {'; '.join(self._bad)}", next=AGAIN)
        if self._alike == MOST_BAD:
            print(f"  {MOST_BAD} iterations in a row taught nothing: {self._why}", file=sys.stderr)

    def check_end(self) -> None:
        """Raises TrainingError when the weights are those of the start."""
        if self.learned == 0:
            raise TrainingError(
                f"no iteration was learned from, the weights are those of the start: {self._last or self._why}",
                next="take a reward that tells completions apart, a larger algorithm.num_generations, or other prompts",
            )


def reward_metrics(rollouts: list[Rollout]) -> dict[str, float]:
    """Means over the completions that have a score, absent where none has; and how many have none, by reason."""
    scored = [rollout for rollout in rollouts if rollout.score is not None]
    means = {}
    if scored:
        means = {
            "reward": sum(rollout.score.value for rollout in scored if rollout.score) / len(scored),
            "finished_share": sum(rollout.trajectory.finished for rollout in scored) / len(scored),
            "completion_tokens": sum(len(rollout.trajectory.tokens) for rollout in scored) / len(scored),
        }
    counts = Counter(rollout.unscored.kind for rollout in rollouts if rollout.unscored)
    reasons = {f"unscored_{kind}": float(count) for kind, count in sorted(counts.items())}
    return {**means, **score_metrics(rollouts), "unscored": float(len(rollouts) - len(scored)), **reasons}


def _reasons(rollouts: list[Rollout]) -> str:
    failed = [rollout.unscored for rollout in rollouts if rollout.unscored]
    first = {one.kind: one.why for one in reversed(failed)}
    counts = Counter(one.kind for one in failed).most_common()
    return "; ".join(f"{first[kind]} ({count} of {len(rollouts)})" for kind, count in counts)
