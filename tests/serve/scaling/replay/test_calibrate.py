"""An engine whose numbers are known answers requests, and its numbers are found again in what they took."""

from __future__ import annotations

import random

import pytest

from raylm.core.errors import DataError
from raylm.serve.scaling.decide import Bounds
from raylm.serve.scaling.ongoing import Ongoing
from raylm.serve.scaling.replay.calibrate import calibrate, mean_running
from raylm.serve.scaling.replay.engine import EngineModel
from raylm.serve.scaling.replay.simulate import Simulator
from raylm.serve.scaling.replay.trace import Arrival, Took, Trace

KNOWN = EngineModel(prefill_tokens_s=5000, step_s=0.03, seq_s=0.002, chunk_tokens=1024)


def log_of(model: EngineModel, rate: float, count: int = 600) -> Trace:
    draw, at, arrivals = random.Random(11), 0.0, []
    for _ in range(count):
        at += draw.expovariate(rate)
        arrivals.append(Arrival(at, draw.randint(50, 900), draw.randint(2, 120)))
    served = Simulator(Ongoing(), Bounds(), model).run(arrivals).served
    return Trace(tuple(Took(a, s.ttft_s or 0, s.seconds or 0) for a, s in zip(arrivals, served, strict=True)))


def test_the_numbers_of_an_engine_are_found_again():
    found = calibrate(log_of(KNOWN, rate=2.0), EngineModel(kv_tokens=7, cold_start_s=3))
    assert found.step_s == pytest.approx(KNOWN.step_s, rel=0.02)
    assert found.seq_s == pytest.approx(KNOWN.seq_s, rel=0.05)
    assert found.prefill_tokens_s == pytest.approx(KNOWN.prefill_tokens_s, rel=0.02)
    # what no request tells stays
    assert (found.kv_tokens, found.cold_start_s) == (7, 3)


def test_and_an_engine_with_them_answers_alike():
    real = log_of(KNOWN, rate=3.0)
    found = calibrate(log_of(KNOWN, rate=2.0), EngineModel(chunk_tokens=1024))
    served = Simulator(Ongoing(), Bounds(), found).run(real.arrivals).served
    mean = [sum(each) / len(each) for each in ([t.seconds for t in real.requests], [s.seconds or 0 for s in served])]
    assert mean[1] == pytest.approx(mean[0], rel=0.05)


def test_too_few_requests_tell_nothing():
    with pytest.raises(DataError, match="9 requests tell"):
        calibrate(Trace(tuple(Took(Arrival(float(n), 10, 10), 0.1, 1.0) for n in range(9))), EngineModel())
    # a file without seconds
    with pytest.raises(DataError, match="0 requests tell"):
        calibrate(Trace(tuple(Took(Arrival(float(n), 10, 10), 0, 0) for n in range(99))), EngineModel())


def test_replicas_that_ran():
    assert mean_running([{"running": 1}, {"running": 3}, {"running": 0}]) == pytest.approx(5 / 3)
    assert mean_running([]) == 1.0
