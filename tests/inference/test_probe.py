"""What is said of a few sequences against what should be."""

from __future__ import annotations

import math

from raylm.inference.probe import NATS, NATS_16_BITS, allowed, apart
from raylm.inference.weight_transfer import Probe

PROBES = (Probe([1, 2, 3], [-1.0, -2.0]), Probe([4, 5], [-0.5]))


def test_the_mean_is_over_all_tokens():
    assert apart([[-1.0, -2.0], [-0.5]], PROBES) == 0
    assert math.isclose(apart([[-1.3, -2.0], [-0.2]], PROBES), 0.2)


def test_what_is_no_number_or_missing_is_as_far_apart_as_can_be():
    for said in ([[-1.0, math.nan], [-0.5]], [[-1.0, -math.inf], [-0.5]], [[-1.0], [-0.5]], [[], []]):
        assert apart(said, PROBES) == math.inf
    # nothing was said that could be wrong: nothing is proved
    assert apart([[]], [Probe([1], [])]) == math.inf


def test_the_job_s_own_bound_comes_first():
    assert allowed("float32", None) == NATS["float32"] and allowed("bfloat16", None) == NATS_16_BITS
    assert allowed("bfloat16", 1e-5) == 1e-5
