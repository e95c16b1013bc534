"""What a generator says of a few sequences against what the trainer says: whether it computes with the weights that it took.

A digest says what came. It does not see a copy of earlier weights that an engine made and goes on using, such as the packed
output head of the CPU backend, nor weights that were put where they do not belong: log-probabilities do.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

from raylm.inference.weight_transfer import Probe

NATS = {"float32": 1e-3}
"""Largest mean absolute difference of log-probabilities by the dtype that an engine computes in; `NATS_16_BITS` for others."""
NATS_16_BITS = 0.1


def allowed(dtype: str, said: float | None) -> float:
    """The largest difference that is noise of rounding, where the engine computes in `dtype`; what the job said comes first."""
    return NATS.get(dtype, NATS_16_BITS) if said is None else said


def apart(said: Sequence[Sequence[float]], probes: Sequence[Probe]) -> float:
    """Mean absolute difference over all tokens, in nats; inf where a number is none, or there are not as many of them.

    Args:
        said: log-probabilities of each probe's tokens, from the second one on.
    """
    total, count = 0.0, 0
    for mine, probe in zip(said, probes, strict=True):
        if len(mine) != len(probe.logprobs):
            return math.inf
        total += sum(abs(one - other) for one, other in zip(mine, probe.logprobs, strict=True))
        count += len(mine)
    return total / count if count and math.isfinite(total) else math.inf
