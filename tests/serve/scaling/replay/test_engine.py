"""Engines with known waits: by hand, and by Pollaczek and Khinchine."""

from __future__ import annotations

import random

import pytest

from raylm.serve.scaling.decide import Bounds
from raylm.serve.scaling.ongoing import Ongoing
from raylm.serve.scaling.replay.engine import Engine, EngineModel, Job
from raylm.serve.scaling.replay.simulate import Served, Simulator
from raylm.serve.scaling.replay.trace import Arrival

# a step with a whole chunk takes 0.5 + 100 / 200 = 1 s: 100 tokens/s
MODEL = EngineModel(prefill_tokens_s=200, step_s=0.5, seq_s=0.1, chunk_tokens=100, kv_tokens=10_000)


def fared(arrivals: list[Arrival], model: EngineModel = MODEL, replicas: int = 1) -> list[Served]:
    bounds = Bounds(min=replicas, max=replicas, most_ongoing=100_000)
    return Simulator(Ongoing(), bounds, model, hold_s=1e9).run(arrivals).served


def test_requests_that_come_faster_than_they_are_served_wait_longer_and_longer():
    # served in 1 s, one comes each 0.8 s: each waits 0.2 s longer than the last
    found = fared([Arrival(0.8 * number, 100, 1) for number in range(50)])
    assert [each.ttft_s for each in found] == pytest.approx([1 + 0.2 * number for number in range(50)])
    # one each 1.25 s: none waits
    assert [each.ttft_s for each in fared([Arrival(1.25 * n, 100, 1) for n in range(9)])] == pytest.approx([1.0] * 9)


def test_two_replicas_serve_twice_as_many():
    found = fared([Arrival(0.5 * number, 100, 1) for number in range(40)], replicas=2)
    assert [each.ttft_s for each in found] == pytest.approx([1.0] * 40)


def test_poisson_arrivals_wait_as_long_as_theory_says():
    # M/D/1 at 80 %: mean wait = use / (2 (1 - use)) = 2 times the service, which is 0.01 s
    quick = MODEL.model_copy(update={"prefill_tokens_s": 20_000, "step_s": 0.005})
    draw, at, arrivals = random.Random(5), 0.0, []
    for _ in range(30_000):
        at += draw.expovariate(80)
        arrivals.append(Arrival(at, 100, 1))
    waits = [each.ttft_s - 0.01 for each in fared(arrivals, quick) if each.ttft_s is not None]
    assert sum(waits) / len(waits) == pytest.approx(0.02, rel=0.07)


def test_answers_share_steps_with_each_other_and_with_prompts():
    # alone: 1 s to the first token, then 10 tokens of 0.5 s
    assert fared([Arrival(0, 100, 11)])[0] == pytest.approx((0, 1.0, 6.0, False))
    # the second is read from 1 to 2 s, in which the first gains one token; then both in steps of 0.6 s: 9 tokens until 7.4 s;
    # then the last one of the second alone
    first, second = fared([Arrival(0, 100, 11), Arrival(0, 100, 11)])
    assert (first.ttft_s, first.seconds) == pytest.approx((1.0, 7.4))
    assert (second.ttft_s, second.seconds) == pytest.approx((2.0, 7.9))


def test_a_full_cache_lets_the_next_wait():
    first, second = fared([Arrival(0, 100, 11), Arrival(0, 100, 11)], MODEL.model_copy(update={"kv_tokens": 221}))
    assert (first.seconds, second.ttft_s) == pytest.approx((6.0, 7.0))
    # and so does the number of sequences
    first, second = fared([Arrival(0, 100, 11), Arrival(0, 100, 11)], MODEL.model_copy(update={"max_num_seqs": 1}))
    assert (first.seconds, second.ttft_s) == pytest.approx((6.0, 7.0))
    # one that no cache holds does not stop the others for ever
    assert fared([Arrival(0, 100, 500), Arrival(0, 100, 1)], MODEL.model_copy(update={"kv_tokens": 200}))[1].ttft_s is not None


def test_a_load_is_what_a_replica_would_tell():
    engine = Engine(MODEL, 0.0)
    assert engine.load()[:4] == (0, 0, 0, 0.0)
    for number in range(3):
        engine.add(Job(number, 0.0, 100, 11), 0.0)
    assert engine.load()[:4] == (3, 0, 300, 333 / 10_000)
    assert engine.next_at() == 1.0
    ended = engine.advance(1.0)
    assert [(each.job.number, each.first, each.last) for each in ended] == [(0, True, False)]
    load = engine.load()
    assert (load.running, load.queued_tokens, load.ttft_s, load.read_tokens) == (3, 200, 1.0, 100)
