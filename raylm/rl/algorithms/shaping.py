"""What the estimators of advantages share: rewards at tokens, discounted sums, whitening.

Shapes: B completions, M most drawn tokens of one, n drawn tokens of one.
"""

from __future__ import annotations

from typing import Any

from raylm.rl.types import Sample


def total(sample: Sample) -> float:
    """All that a completion earned: its reward and the rewards at its tokens."""
    return sample.reward if sample.token_rewards is None else sample.reward + float(sum(sample.token_rewards))


def drawn(sample: Sample) -> Any:
    """Places of the tokens that are learned from, [n]."""
    import numpy as np

    return np.flatnonzero(np.asarray(sample.mask_or_ones) > 0)


def rewards_at(samples: list[Sample]) -> tuple[Any, Any]:
    """Rewards at the drawn tokens, [B, M], and 1 where there is one, [B, M]. The reward of a completion belongs to its last drawn
    token, and what is given at a token of the environment to the drawn one before it (the first where none is before)."""
    import numpy as np

    places = [drawn(sample) for sample in samples]
    width = max((len(place) for place in places), default=0)
    reward_BM, mask_BM = np.zeros((len(samples), width)), np.zeros((len(samples), width))
    for row, (sample, place) in enumerate(zip(samples, places, strict=True)):
        if not len(place):
            continue
        mask_BM[row, : len(place)] = 1.0
        if sample.token_rewards is not None:
            at_N = (np.searchsorted(place, np.arange(len(sample.logprobs)), side="right") - 1).clip(0)
            np.add.at(reward_BM[row], at_N, np.asarray(sample.token_rewards, np.float64))
        reward_BM[row, len(place) - 1] += sample.reward
    return reward_BM, mask_BM


def at_drawn(samples: list[Sample], field: str, width: int) -> Any:
    """A field per token of each sample, of its drawn tokens alone, [B, M]; 0 behind them."""
    import numpy as np

    value_BM = np.zeros((len(samples), width))
    for row, sample in enumerate(samples):
        place = drawn(sample)
        value_BM[row, : len(place)] = np.asarray(getattr(sample, field), np.float64)[place]
    return value_BM


def spread(samples: list[Sample], field: str, value_BM: Any) -> list[Sample]:
    """The samples with a field per token: values at drawn tokens, 0 at others."""
    import numpy as np

    made = []
    for row, sample in enumerate(samples):
        place, value_N = drawn(sample), np.zeros(len(sample.logprobs))
        value_N[place] = value_BM[row, : len(place)]
        made.append(sample._replace(**{field: value_N}))
    return made


def discounted(reward_BM: Any, factor: float) -> Any:
    """Sum of each token's and all later rewards, each step's multiplied by `factor`."""
    import numpy as np

    sum_BM, later_B = np.zeros_like(reward_BM), np.zeros(len(reward_BM))
    for place in reversed(range(reward_BM.shape[1])):
        later_B = sum_BM[:, place] = reward_BM[:, place] + factor * later_B
    return sum_BM


def gae(reward_BM: Any, value_BM: Any, gamma: float, gae_lambda: float) -> Any:
    """Generalised advantage estimation (https://arxiv.org/abs/1506.02438); a completion ends with its last drawn token, whose
    successor is worth 0."""
    import numpy as np

    next_BM = np.zeros_like(value_BM)
    next_BM[:, :-1] = value_BM[:, 1:]
    return discounted(reward_BM + gamma * next_BM - value_BM, gamma * gae_lambda)


def whiten(value_BM: Any, mask_BM: Any, shift: bool = True) -> Any:
    """Values with variance 1 (of a sample: one degree of freedom less) and, where asked, mean 0 over all counted tokens."""
    import numpy as np

    count = mask_BM.sum()
    if count < 2:
        return value_BM * mask_BM
    mean = (value_BM * mask_BM).sum() / count
    variance = (((value_BM - mean) ** 2) * mask_BM).sum() / (count - 1.0)
    white_BM = (value_BM - mean) / np.sqrt(variance + 1e-8)
    return (white_BM if shift else white_BM + mean) * mask_BM
