"""Metrics of one iteration's rollouts beside their mean reward: spread, parts, sources, lengths, staleness."""

from __future__ import annotations

import statistics
from collections import defaultdict
from collections.abc import Iterable, Sequence

from raylm.rl.types import Experience, Rollout, Sample

MOST_SOURCES = 20
"""More are not told apart in metrics; the kept rollouts have them all."""


def score_metrics(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Of completions that have a score.

    `reward_std`: spread over all of them. `reward/NAME`: mean of each part, before it is weighed. `source_reward/NAME`: mean over
    the prompts of a source, where there are several of two prompts or more each. `reward_std_zero_share`: groups of several whose
    members all earn alike, which teach nothing. `cut_share`: completions that were cut at a limit. `completion_tokens_max`,
    `turns`.
    """
    scored = [(one, one.score.value) for one in rollouts if one.score is not None]
    if not scored:
        return {}
    values = [value for _, value in scored]
    found = {
        "reward_std": statistics.pstdev(values),
        "cut_share": _mean(one.trajectory.finish_reason == "length" for one, _ in scored),
        "completion_tokens_max": float(max(len(one.trajectory.tokens) for one, _ in scored)),
    }
    parts: dict[str, list[float]] = defaultdict(list)
    sources: dict[str, list[float]] = defaultdict(list)
    groups: dict[int, list[float]] = defaultdict(list)
    for one, value in scored:
        groups[one.prompt.row].append(one.earned or 0.0)
        sources[one.prompt.source].append(value)
        for name, part in (one.parts or {}).items():
            parts[name].append(part.value)
    compared = [group for group in groups.values() if len(group) > 1]
    if compared:
        found["reward_std_zero_share"] = _mean(max(group) == min(group) for group in compared)
    if len(parts) > 1:
        found |= {f"reward/{name}": _mean(part) for name, part in sorted(parts.items())}
    # where each prompt has a source of its own, as files of documents, they tell nothing
    if 1 < len(sources) <= min(MOST_SOURCES, len(groups) // 2):
        found |= {f"source_reward/{name or '-'}": _mean(values) for name, values in sorted(sources.items())}
    if any(one.trajectory.num_turns > 1 for one, _ in scored):
        found["turns"] = _mean(one.trajectory.num_turns for one, _ in scored)
    return found | _of_environments(rollouts)


def experience_metrics(rollouts: Sequence[Rollout], experience: Experience, version: int) -> dict[str, float]:
    """Of what is learned from.

    `learned_share`: completions of all that were drawn. `advantage_std`: spread of advantages over tokens. `staleness`: versions
    of the weights by which tokens lie behind `version`, the one that is updated, mean and `staleness_max`.
    """
    found = {"learned_share": len(experience.samples) / len(rollouts)} if rollouts else {}
    moments = [_moments(sample) for sample in experience.samples]
    if tokens := sum(count for count, _, _ in moments):
        mean = sum(count * each for count, each, _ in moments) / tokens
        found["advantage_std"] = (sum(spread + count * (each - mean) ** 2 for count, each, spread in moments) / tokens) ** 0.5
    spans = [(span.end - span.start, version - span.version) for sample in experience.samples for span in sample.versions]
    if tokens := sum(count for count, _ in spans):
        found["staleness"] = sum(count * behind for count, behind in spans) / tokens
        found["staleness_max"] = float(max(behind for _, behind in spans))
    return found


def _moments(sample: Sample) -> tuple[int, float, float]:
    """Tokens that are learned from, the mean of their advantages, and the sum of squares around it."""
    import numpy as np

    given = sample.advantages
    if sample.mask is None and isinstance(given, list) and given and given.count(given[0]) == len(given):
        # as most algorithms leave it; an array of each would cost more than all else that is computed here
        return len(given), float(given[0]), 0.0
    advantages = np.asarray(given, np.float64)
    advantages = advantages if sample.mask is None else advantages[np.asarray(sample.mask) > 0]
    if not len(advantages):
        return 0, 0.0, 0.0
    return len(advantages), float(advantages.mean()), float(advantages.var() * len(advantages))


def _of_environments(rollouts: Sequence[Rollout]) -> dict[str, float]:
    """Means of what environments count; what a conversation does not name it had none of."""
    each = [one.trajectory.metrics for one in rollouts if one.trajectory.metrics is not None]
    names = sorted({name for counted in each for name in counted})
    return {f"environment/{name}": _mean(counted.get(name, 0.0) for counted in each) for name in names}


def _mean(values: Iterable[float]) -> float:
    found = [float(value) for value in values]
    return sum(found) / len(found)
