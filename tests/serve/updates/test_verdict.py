"""When a new version is stopped: soon where it fails, and by chance nearly never."""

from __future__ import annotations

import math
import random

import pytest

from raylm.serve.updates.rollout import Compared, Counts, Told
from raylm.serve.updates.verdict import ALPHA, Allowed, evidence, exceeds, reason_to_stop, upper


def told(new, old=(1000, 0), copies=Compared()):
    return Told({"new": Counts(*new), "old": Counts(*old)}, {"new": copies})


def stopped(*args, **options):
    return reason_to_stop(told(*args), "old", "new", Allowed(**options))


def test_evidence_by_hand():
    # one failure of one: the mean of rate / limit over rates spread evenly over (0.5, 1)
    assert math.exp(evidence(1, 1, 0.5)) == pytest.approx(0.75 / 0.5)
    # ... and of (1 - rate) / (1 - limit) for a success
    assert math.exp(evidence(0, 1, 0.5)) == pytest.approx(0.25 / 0.5)


def test_one_of_one_is_no_reason_and_three_of_three_are():
    assert stopped((1, 1)) == "" == stopped((0, 0))
    assert stopped((3, 3)).startswith("3 of 3 answers failed (the old version: 0 of 1000)")
    assert stopped((400, 4)) == ""
    assert "40 of 400" in stopped((400, 40))


def test_what_the_old_version_fails_too_is_no_reason():
    assert stopped((400, 40), (4000, 400)) == ""
    assert "200 of 400" in stopped((400, 200), (4000, 400))


@pytest.mark.parametrize("rate", [0.02, 0.01])
def test_chance_alone_stops_nearly_nobody_however_often_one_looks(rate):
    draws, stops = random.Random(0), 0
    for _ in range(300):
        bad = 0
        for n in range(1, 401):
            # between two failures evidence only falls
            failed = draws.random() < rate
            bad += failed
            if failed and exceeds(bad, n, 0.02, alpha=0.05):
                stops += 1
                break
    assert stops <= 300 * 0.05 * 1.6


def test_a_version_that_fails_much_is_found_soon():
    draws, needed = random.Random(1), []
    for _ in range(100):
        bad = 0
        for n in range(1, 1000):
            bad += draws.random() < 0.3
            if exceeds(bad, n, 0.02):
                needed.append(n)
                break
    assert len(needed) == 100 and sorted(needed)[90] < 40


def test_copies_that_fail_or_disagree():
    assert stopped((0, 0), (100, 0), Compared(100, 0, 100, 10)) == ""
    assert "90 of 100 greedy answers are other ones" in stopped((0, 0), (100, 0), Compared(100, 0, 100, 10), disagree_rate=0.5)
    assert stopped((0, 0), (100, 0), Compared(100, 0, 100, 45), disagree_rate=0.5) == ""
    assert "50 of 100 copies of requests failed" in stopped((0, 0), (100, 0), Compared(100, 50, 50, 50))


def test_wilson():
    # 10 of 100 at 95 %: [0.0552, 0.1744] (Wilson 1927, as statsmodels gives it)
    assert upper(10, 100, 1.959964) == pytest.approx(0.1744, abs=1e-4)
    assert upper(0, 0) == 1.0 and upper(5, 5) == pytest.approx(1.0)
    assert 0 < ALPHA < 0.01
