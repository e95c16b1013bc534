"""Advantages within each group of completions, for the cards that compare the completions of one prompt with each other."""

from __future__ import annotations

from typing import Literal, NamedTuple

from pydantic import Field

from raylm.rl.algorithms.policy_gradient import PolicyGradient
from raylm.rl.algorithms.shaping import total
from raylm.rl.types import Sample


class Group(NamedTuple):
    """Scored completions of one prompt."""

    samples: list[Sample]
    rewards: list[float]

    @property
    def teaches(self) -> bool:
        # not `deviation == 0`: the mean of equal rewards may be off by a rounding, and that would teach noise
        return max(self.rewards) != min(self.rewards)

    @property
    def mean(self) -> float:
        return sum(self.rewards) / len(self.rewards)

    @property
    def deviation(self) -> float:
        """With one degree of freedom less."""
        return deviation(self.rewards)


class Grouped(PolicyGradient):
    """No value model: each reward is compared with those of its group. A card adds `compare`."""

    num_generations: int = Field(default=8, gt=1)
    """Completions per prompt, compared with each other."""
    dynamic_sampling: int = Field(default=0, ge=0)
    """Most batches of prompts that an iteration asks, so that groups whose completions all score alike are replaced by others
    (https://arxiv.org/abs/2503.14476); 0 and 1 replace none."""

    def compare(self, groups: list[Group]) -> list[list[float]]:
        """The advantage of each member of each group."""
        raise NotImplementedError

    def estimate(self, samples: list[Sample]) -> tuple[list[Sample], dict[str, float]]:
        """Each reward against its group's, equal for all tokens of a completion. Groups of equal rewards teach nothing and are
        left out; where KL or entropy is in the loss they stay, for its sake, unless all groups are such ones."""
        groups = groups_of(samples)
        alike = sum(not group.teaches for group in groups)
        metrics = {"groups_alike": alike / max(len(groups), 1)}
        besides = bool(self.entropy) or (self.kl is not None and self.kl.coefficient > 0 and not self.kl.in_reward)
        keep_alike = besides and alike < len(groups)
        kept: list[Sample] = []
        for group, values in zip(groups, self.compare(groups), strict=True):
            if group.teaches or keep_alike:
                for one, value in zip(group.samples, values, strict=True):
                    kept.append(one._replace(advantages=[value if group.teaches else 0.0] * len(one.logprobs)))
        return kept, metrics


class GroupNormalized(Grouped):
    """The advantage of GRPO (https://arxiv.org/abs/2402.03300)."""

    scale_rewards: bool | Literal["group", "batch", "none"] = True
    """Divide advantages by the standard deviation of the group's rewards (true or "group": GRPO), or of all rewards of the
    iteration ("batch": https://arxiv.org/abs/2508.08221), or only centre them (false or "none": Dr. GRPO,
    https://arxiv.org/abs/2503.20783)."""

    def compare(self, groups: list[Group]) -> list[list[float]]:
        batch = deviation([reward for group in groups for reward in group.rewards])
        scales = {True: None, "group": None, "batch": batch + 1e-4, False: 1.0, "none": 1.0}
        found = []
        for group in groups:
            scale = scales[self.scale_rewards]
            scale = group.deviation + 1e-4 if scale is None else scale
            found.append([(reward - group.mean) / scale for reward in group.rewards])
        return found


def groups_of(samples: list[Sample]) -> list[Group]:
    """Samples of the same prompt, in the order in which prompts come."""
    found: dict[int, list[Sample]] = {}
    for sample in samples:
        found.setdefault(sample.row, []).append(sample)
    return [Group(members, [total(member) for member in members]) for members in found.values()]


def deviation(values: list[float]) -> float:
    """Standard deviation with one degree of freedom less; 0 of a single value."""
    mean = sum(values) / max(len(values), 1)
    return (sum((value - mean) ** 2 for value in values) / max(len(values) - 1, 1)) ** 0.5
