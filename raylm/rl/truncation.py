"""What is done about answers that were cut at a limit of tokens or turns."""

from __future__ import annotations

from collections.abc import Callable
from typing import Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.rl.types import Experience, Rollout, Sample, Score


class Truncated(Config):
    """What is learned from answers that were cut at `max_tokens`, or at a limit of turns."""

    action: Literal["mask", "penalize"] = "mask"
    """`mask`: they count in what the other completions of their prompt are compared with, and are not learned from
    (`mask_truncated_completions` of TRL); `penalize`: their score is lowered."""
    penalty: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Of `penalize`: what is taken from the score."""

    def scored(self, rollouts: list[Rollout]) -> list[Rollout]:
        """The rollouts of one group with the scores that are learned from."""
        if self.action != "penalize":
            return rollouts
        return [self._lowered(one) if one.score is not None and not one.trajectory.finished else one for one in rollouts]

    def left_in(self, experience: Experience, weigh: Callable[[list[Sample]], list[Sample]] | None = None) -> Experience:
        """The samples that are learned from, once advantages are set.

        Args:
            weigh: sets their weights in the loss, where these depend on what else is learned from.
        """
        if self.action != "mask":
            return experience
        left = [sample for sample in experience.samples if sample.finished]
        return experience._replace(samples=weigh(left) if weigh else left)

    def _lowered(self, one: Rollout) -> Rollout:
        assert one.score is not None
        said = Score(one.score.value - self.penalty, f"{one.score.reason}; cut off: -{self.penalty:g}".removeprefix("; "))
        parts = {**one.parts, "cut_off": Score(-self.penalty, "cut off")} if one.parts else one.parts
        return one._replace(score=said, parts=parts)
