"""Whether a new version is worse than what is allowed: tests that may be looked at after every answer.

A rate that is compared with a limit again and again is above it some day by chance alone. Here the chance that a version whose
true rate is within the limit is ever stopped is at most `ALPHA`, however often one looks: a mixture of likelihood ratios of rates
above the limit is a supermartingale under all rates below it (Ville's inequality; Howard et al. 2021,
https://arxiv.org/abs/1810.08240; Wald's sequential test for many alternatives).
"""

from __future__ import annotations

import math
from typing import Any

from raylm.serve.updates.rollout import Allowed, Compared, Counts, Rollout, Told

ALPHA = 0.001
NUM_RATES = 64
"""Alternatives above the limit that the mixture is made of."""
WILSON_Z = 2.576


def evidence(bad: int, n: int, limit: float) -> float:
    """Logarithm of how much likelier `bad` of `n` is under rates above `limit` (evenly spread) than at `limit` itself.

    Args:
        limit: 0 < limit < 1.
    """
    rates = (limit + (1 - limit) * (at + 0.5) / NUM_RATES for at in range(NUM_RATES))
    logs = [bad * math.log(rate / limit) + (n - bad) * math.log((1 - rate) / (1 - limit)) for rate in rates]
    most = max(logs)
    return most + math.log(sum(math.exp(each - most) for each in logs) / NUM_RATES)


def exceeds(bad: int, n: int, limit: float, alpha: float = ALPHA) -> bool:
    """Whether the true rate is above `limit`, as far as chance can be ruled out."""
    if not 0 < limit < 1 or not bad:
        return False
    return evidence(bad, n, limit) >= -math.log(alpha)


def upper(bad: int, n: int, z: float = WILSON_Z) -> float:
    """Upper end of the interval in which the true rate lies (Wilson 1927); 1 where nothing is known.

    Args:
        z: quantile of the normal distribution, 2.576 for 99 %.
    """
    if not n:
        return 1.0
    rate, square = bad / n, z * z
    middle, spread = rate + square / (2 * n), z * math.sqrt(rate * (1 - rate) / n + square / (4 * n * n))
    return min(1.0, (middle + spread) / (1 + square / n))


def reason_at(told: Told, rollout: Rollout) -> str:
    """Why a gateway must give the new version no further request, by what it counted itself; "" where there is no reason.

    Asked after each answer that was not good, so that the number of requests that may fail before it does not depend on how fast
    they come: three where all fail and 2 % may, for each gateway, and those that are under way then.
    """
    return reason_to_stop(told, rollout.stable, rollout.fresh, rollout.allows) if rollout.allows else ""


def reason_to_stop(told: Told, stable: str, fresh: str, allowed: Allowed) -> str:
    """Why the new version must be stopped, by what gateways counted since it got requests; "" where there is no reason."""
    new, old = told.counts.get(fresh, Counts()), told.counts.get(stable, Counts())
    # what the old version fails too, a fault of the machine or of requests, is no fault of the new one's
    normal = upper(old.failed, old.answers) if old.failed else 0.0
    if exceeds(new.failed, new.answers, min(normal + allowed.error_rate, 0.99)):
        return (
            f"{new.failed} of {new.answers} answers failed (the old version: {old.failed} of {old.answers}), "
            f"{allowed.error_rate:.1%} beyond it are allowed"
        )
    copies = told.compared.get(fresh, Compared())
    if exceeds(copies.failed, copies.sent, min(normal + allowed.error_rate, 0.99)):
        return f"{copies.failed} of {copies.sent} copies of requests failed, {allowed.error_rate:.1%} are allowed"
    others = copies.compared - copies.agreed
    if allowed.disagree_rate < 1 and exceeds(others, copies.compared, max(allowed.disagree_rate, 1e-6)):
        return (
            f"{others} of {copies.compared} greedy answers are other ones than the old version's, "
            f"{allowed.disagree_rate:.1%} are allowed"
        )
    return ""


def figures_of(told: Told, stable: str, fresh: str) -> dict[str, Any]:
    """What gateways counted of both versions: answers, failures, mean seconds; and of copies."""
    found: dict[str, Any] = {}
    for name, version in (("old", stable), ("new", fresh)):
        if (counts := told.counts.get(version)) is not None:
            good = max(counts.answers - counts.failed, 1)
            found[name] = {
                "answers": counts.answers,
                "failed": counts.failed,
                "first_s": round(counts.first_s / good, 4),
                "seconds": round(counts.seconds / good, 4),
            }
    if (copies := told.compared.get(fresh)) is not None:
        slower_s = round(copies.slower_s / max(copies.sent - copies.failed, 1), 4)
        found["copies"] = {**copies._asdict(), "slower_s": slower_s}
    return found
