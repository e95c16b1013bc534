"""The `reinforce_plus_plus_baseline` algorithm: rewards less their group's mean, normalised over the global batch."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.rl.algorithms.clipped import Clipped
from raylm.rl.algorithms.grouped import Group, Grouped


class ReinforcePlusPlusBaseline(Clipped, Grouped):
    """REINFORCE++ with a baseline (https://arxiv.org/abs/2501.03262): the group says what was to be expected, the whole iteration
    how large an advantage is. The paper has `kl` in the loss, with k2."""

    kind: Literal["reinforce_plus_plus_baseline"] = "reinforce_plus_plus_baseline"
    clip_high: float = Field(default=0.2, gt=0)
    """How far the ratio of new to old probability may go above 1."""

    def compare(self, groups: list[Group]) -> list[list[float]]:
        """Centred in the group, whitened over all tokens."""
        centred = [[reward - group.mean for reward in group.rewards] for group in groups]
        pairs = [
            (value, sample.num_learned)
            for group, values in zip(groups, centred, strict=True)
            for value, sample in zip(values, group.samples, strict=True)
        ]
        tokens = sum(count for _, count in pairs)
        mean = sum(value * count for value, count in pairs) / max(tokens, 1.0)
        variance = sum((value - mean) ** 2 * count for value, count in pairs) / max(tokens - 1.0, 1.0)
        scale = (variance + 1e-8) ** 0.5
        return [[(value - mean) / scale for value in values] for values in centred]
