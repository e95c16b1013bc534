"""How sure a measured number is: intervals, paired tests, what a number of instances can show, and many tests at once.

Needs numpy alone. Shapes: G clusters (instances that are independent of each other are clusters of one), D draws.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from statistics import NormalDist
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import numpy as np

CONFIDENCE = 0.95
DRAWS = 2000
"""Resamples of a bootstrap."""
SWAPS = 10_000
"""Permutations of a test; the smallest p-value is 1 / 10,001."""
POWER = 0.8
DISCORDANCE = 0.2
"""Assumed before a run: the share of instances on which one of two models is right and the other one is wrong."""
_BLOCK = 4_000_000


class Interval(NamedTuple):
    """Where the true value lies with the confidence that was asked for."""

    low: float
    high: float


def wilson(right: float, count: float, confidence: float = CONFIDENCE) -> Interval:
    """Score interval of a share (Wilson 1927, https://doi.org/10.1080/01621459.1927.10502953)."""
    z = _z(confidence)
    share, added = right / count, z * z / count
    middle = (share + added / 2) / (1 + added)
    half = z / (1 + added) * math.sqrt(share * (1 - share) / count + added / (4 * count))
    return Interval(max(middle - half, 0.0), min(middle + half, 1.0))


def clustered_share(right: Sequence[float], clusters: Sequence[Any], confidence: float = CONFIDENCE) -> Interval:
    """`wilson` with as many instances as the clusters are worth: their design effect by linearisation, fewer where Student's t
    of few clusters asks for that (Korn and Graubard 1998), and of shares of 0 or 1, which show no design effect, one for each
    cluster (Franco et al. 2019, https://doi.org/10.1093/jssam/smy019)."""
    share, worth = sum(right) / len(right), worth_of(right, clusters, confidence)
    return wilson(share * worth, worth, confidence) if worth > 1 else Interval(0.0, 1.0)


def worth_of(right: Sequence[float], clusters: Sequence[Any], confidence: float = CONFIDENCE) -> float:
    """As many independent instances as those of `clustered_share` are worth; 1 for a single cluster, which shows nothing."""
    sums_G, counts_G = _sums([right, [1.0] * len(right)], clusters)
    num, share = len(sums_G), float(sums_G.sum() / counts_G.sum())
    if num < 2:
        return 1.0
    spread = num / (num - 1) * float(((sums_G - share * counts_G) ** 2).sum()) / len(right) ** 2
    if not 0 < share < 1:
        return float(num)
    upper = (1 + confidence) / 2
    fewer = (student(upper, len(right) - 1) / student(upper, num - 1)) ** 2
    return min(share * (1 - share) / spread * fewer, len(right)) if spread else len(right) * fewer


def paired_share(lost: int, won: int, count: int, confidence: float = CONFIDENCE) -> Interval:
    """Interval of the difference of two shares on the same instances: the second one's minus the first one's (Bonett and Price
    2012, https://doi.org/10.3102/1076998611411915). It has a width where no instance differs, too.

    Args:
        lost: instances that only the first one has right.
        won: instances that only the second one has right.
    """
    less, more = (lost + 1) / (count + 2), (won + 1) / (count + 2)
    half = _z(confidence) * math.sqrt(max(less + more - (more - less) ** 2, 0.0) / (count + 2))
    return Interval(max(more - less - half, -1.0), min(more - less + half, 1.0))


def mcnemar(lost: int, won: int) -> float:
    """Exact two-sided p-value that losses and wins are equally likely (McNemar 1947, https://doi.org/10.1007/BF02295996)."""
    count, few = lost + won, min(lost, won)
    term = total = 1
    for at in range(few):
        term = term * (count - at) // (at + 1)
        total += term
    return min(1.0, 2 * total / 2**count)


def of_alike(value: float, count: int, reach: float, confidence: float = CONFIDENCE) -> Interval:
    """Interval of a mean of numbers that are all the same, which draws of them say nothing of: others may be as rare as none of
    `count` shows (the exact interval of a share, Clopper and Pearson 1934, https://doi.org/10.1093/biomet/26.4.404).

    Args:
        count: of independent numbers.
        reach: how far from `value` a number may lie; inf where it has no bounds, and then no interval can be stated.
    """
    if not math.isfinite(reach) or count < 2:
        return Interval(-math.inf, math.inf)
    others = 1 - ((1 - confidence) / 2) ** (1 / count)
    return Interval(value - others * reach, value + others * reach)


def bootstrap(
    values: Any, weights: Any, clusters: Sequence[Any] | None = None, confidence: float = CONFIDENCE, seed: int = 0
) -> Interval:
    """Interval of sum(values) / sum(weights) when whole clusters are drawn again; expanded percentiles
    (Hesterberg 2015, https://arxiv.org/abs/1411.5279): as wide as Student's t asks for few clusters."""
    found_D = _resampled([values, weights], clusters, lambda v, w: v / w, seed)
    return _percentiles(found_D, _num(values, clusters), confidence)


def paired_bootstrap(
    first: tuple[Any, Any],
    second: tuple[Any, Any],
    clusters: Sequence[Any] | None = None,
    confidence: float = CONFIDENCE,
    seed: int = 0,
) -> Interval:
    """Interval of the second quotient minus the first one: both are of the same instances, in the same order.

    Args:
        first, second: values and weights.
    """
    found_D = _resampled([*first, *second], clusters, lambda v, w, v2, w2: v2 / w2 - v / w, seed)
    return _percentiles(found_D, _num(first[0], clusters), confidence)


def permutation(first: tuple[Any, Any], second: tuple[Any, Any], clusters: Sequence[Any] | None = None, seed: int = 0) -> float:
    """Two-sided p-value that it makes no difference which of two models an instance is of: their results are swapped, cluster by
    cluster; all ways where there are few.

    Args:
        first, second: values and weights, of the same instances in the same order.
    """
    import numpy as np

    v_G, w_G, v2_G, w2_G = _sums([*first, *second], clusters)
    count = len(v_G)
    if 2**count <= SWAPS:
        signs_DG = 1.0 - 2.0 * ((np.arange(2**count)[:, None] >> np.arange(count)) & 1)
        parts, every = [signs_DG], True
    else:
        rng, step, every = np.random.default_rng(seed), max(_BLOCK // count, 1), False
        parts = (rng.integers(0, 2, (min(step, SWAPS - at), count)).astype(np.float64) * 2 - 1 for at in range(0, SWAPS, step))
    observed = abs(v2_G.sum() / w2_G.sum() - v_G.sum() / w_G.sum())
    more, drawn = 0, 0
    for signs_DG in parts:
        dv_D, dw_D = signs_DG @ (v2_G - v_G), signs_DG @ (w2_G - w_G)
        v, w = v_G.sum() + v2_G.sum(), w_G.sum() + w2_G.sum()
        with np.errstate(divide="ignore", invalid="ignore"):
            found_D = np.abs((v + dv_D) / (w + dw_D) - (v - dv_D) / (w - dw_D))
        # sums in another order differ in their last digits
        more += int((~(found_D < observed * (1 - 1e-9) - 1e-15)).sum())
        drawn += len(signs_DG)
    return more / drawn if every else (more + 1) / (drawn + 1)


def apart(inside: tuple[Any, Any], outside: tuple[Any, Any], seed: int = 0) -> float:
    """Two-sided p-value that it makes no difference which instances are inside a slice: the slice is drawn again.

    Args:
        inside, outside: values and weights of clusters.
    """
    import numpy as np

    values_G, weights_G = (
        np.concatenate([np.asarray(a, float), np.asarray(b, float)]) for a, b in zip(inside, outside, strict=True)
    )
    count, size = len(values_G), len(inside[0])
    rng, step = np.random.default_rng(seed), max(_BLOCK // count, 1)

    def gap(v: Any, w: Any) -> Any:
        return np.abs(v / w - (values_G.sum() - v) / (weights_G.sum() - w))

    observed = gap(values_G[:size].sum(), weights_G[:size].sum())

    def as_far(v: Any, w: Any) -> int:
        # sums in another order differ in their last digits
        return int((gap(v, w) >= observed * (1 - 1e-9) - 1e-15).sum())

    if np.all(weights_G == 1) and np.isin(values_G, (0.0, 1.0)).all():
        # of right and wrong it is known how many of each a draw of this size has
        right = int(values_G.sum())
        return (as_far(rng.hypergeometric(right, count - right, size, DRAWS), size) + 1) / (DRAWS + 1)
    more = 0
    for at in range(0, DRAWS, step):
        places = rng.random((min(step, DRAWS - at), count)).argpartition(size - 1, axis=1)[:, :size]
        more += as_far(values_G[places].sum(1), weights_G[places].sum(1))
    return (more + 1) / (DRAWS + 1)


def detectable(count: int, discordance: float = DISCORDANCE, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """Smallest difference of two shares that a paired test of `count` instances finds with this power (Miettinen 1968,
    https://doi.org/10.2307/2528463); 1 where there is none.

    Args:
        discordance: share of instances on which one of the models is right and the other one is wrong.
    """
    z, reach = _z(confidence), NormalDist().inv_cdf(power)

    def needed(difference: float) -> float:
        return ((z * math.sqrt(discordance) + reach * math.sqrt(max(discordance - difference**2, 0.0))) / difference) ** 2

    # a difference is no larger than what differs
    if needed(discordance) > count:
        return 1.0
    low, high = 0.0, discordance
    for _ in range(60):
        middle = (low + high) / 2
        low, high = (middle, high) if middle == 0 or needed(middle) > count else (low, middle)
    return high


def detectable_deviations(count: int, confidence: float = CONFIDENCE, power: float = POWER) -> float:
    """`detectable` for any mean, in standard deviations of the difference on one instance."""
    return (_z(confidence) + NormalDist().inv_cdf(power)) / math.sqrt(count)


def benjamini_hochberg(values: Sequence[float]) -> list[float]:
    """p-values adjusted for their number: keep those up to 0.05, and at most 5 % of what is kept is false on average
    (Benjamini and Hochberg 1995, https://doi.org/10.1111/j.2517-6161.1995.tb02031.x)."""
    order = sorted(range(len(values)), key=lambda at: values[at])
    adjusted, least = [1.0] * len(values), 1.0
    for rank, at in reversed(list(enumerate(order, 1))):
        least = min(least, values[at] * len(values) / rank)
        adjusted[at] = least
    return adjusted


def student(probability: float, freedom: float) -> float:
    """Quantile of Student's t, by its expansion in powers of 1 / `freedom` (Abramowitz and Stegun 26.7.5)."""
    z = NormalDist().inv_cdf(probability)
    terms = (
        (z**3 + z) / 4,
        (5 * z**5 + 16 * z**3 + 3 * z) / 96,
        (3 * z**7 + 19 * z**5 + 17 * z**3 - 15 * z) / 384,
        (79 * z**9 + 776 * z**7 + 1482 * z**5 - 1920 * z**3 - 945 * z) / 92160,
    )
    return z + sum(term / freedom**power for power, term in enumerate(terms, 1))


def _z(confidence: float) -> float:
    return NormalDist().inv_cdf((1 + confidence) / 2)


def _num(values: Any, clusters: Sequence[Any] | None) -> int:
    return len(values) if clusters is None else len(set(clusters))


def _sums(columns: Sequence[Any], clusters: Sequence[Any] | None) -> list[np.ndarray]:
    """Each column's sums over clusters, [G]."""
    import numpy as np

    arrays = [np.asarray(column, dtype=np.float64) for column in columns]
    if clusters is None:
        return arrays
    numbers: dict[Any, int] = {}
    place = np.array([numbers.setdefault(cluster, len(numbers)) for cluster in clusters])
    return [np.bincount(place, array, len(numbers)) for array in arrays]


def _resampled(columns: Sequence[Any], clusters: Sequence[Any] | None, statistic: Any, seed: int) -> np.ndarray:
    """The statistic of the columns' sums, of each resample of clusters, [D]."""
    import numpy as np

    sums_CG = np.stack(_sums(columns, clusters))
    count = sums_CG.shape[1]
    rng, step = np.random.default_rng(seed), max(_BLOCK // count, 1)
    found = []
    for at in range(0, DRAWS, step):
        times_DG = rng.multinomial(count, np.full(count, 1 / count), size=min(step, DRAWS - at))
        with np.errstate(divide="ignore", invalid="ignore"):
            found.append(statistic(*(times_DG @ sums_CG.T).T))
    return np.concatenate(found)


def _percentiles(found_D: np.ndarray, count: int, confidence: float) -> Interval:
    import numpy as np

    if count < 2:
        return Interval(-math.inf, math.inf)
    t = student((1 + confidence) / 2, count - 1)
    outside = NormalDist().cdf(-math.sqrt(count / (count - 1)) * t)
    low, high = np.nanquantile(found_D, [outside, 1 - outside])
    return Interval(float(low), float(high))
