"""Whole replays: what a policy makes of a step in the load, what it costs, and that nothing is lost."""

from __future__ import annotations

import random

import pytest

from raylm.serve.scaling.decide import Bounds
from raylm.serve.scaling.ongoing import Ongoing
from raylm.serve.scaling.replay.engine import EngineModel
from raylm.serve.scaling.replay.simulate import Replay, Simulator
from raylm.serve.scaling.replay.trace import Arrival
from raylm.serve.scaling.tokens import Tokens

# 1,000 tokens/s of prompts (0.05 + 100/2000 = 0.1 s a chunk of 100)
MODEL = EngineModel(prefill_tokens_s=2000, step_s=0.05, seq_s=0.001, chunk_tokens=100, kv_tokens=1_000_000, cold_start_s=10)
BOUNDS = Bounds(min=1, max=6, upscale_delay_s=2, downscale_delay_s=30)


def poisson(*parts: tuple[float, float], prompt: int = 200, answer: int = 20, seed: int = 3) -> list[Arrival]:
    """Parts are (seconds, requests per second)."""
    draw, found, begin = random.Random(seed), [], 0.0
    for seconds, rate in parts:
        at = begin
        while rate and (at := at + draw.expovariate(rate)) < begin + seconds:
            found.append(Arrival(at, prompt, answer))
        begin += seconds
    return found


def check(replay: Replay, arrivals: list[Arrival]) -> None:
    assert len(replay.served) == len(arrivals)
    assert all(each.refused or (each.seconds or 0) >= (each.ttft_s or 1e9) > 0 for each in replay.served)


def test_a_step_in_the_load_is_answered_and_forgotten():
    # 200 tokens/s, then 2,600/s: 2.6 replicas' at full use, 3.3 at 0.8 of it
    arrivals = poisson((60, 1), (120, 13), (150, 1))
    replay = Simulator(Tokens(target_ttft_s=2), BOUNDS, MODEL).run(arrivals, "tokens")
    check(replay, arrivals)
    count = {round(each.at): each.running for each in replay.moments}
    assert count[50] == 1 and 4 <= count[150] <= 6 and count[320] == 1
    up = [each for each in replay.decisions if each["replicas"] > each["before"]]
    assert 60 < up[0]["at"] < 75 and all("arrive" in each["reason"] or "first token" in each["reason"] for each in up)
    # one that stays in the same load never catches up
    alone = Simulator(Tokens(target_ttft_s=2), BOUNDS._replace(max=1), MODEL, hold_s=1e9).run(arrivals)
    late = [sum((each.ttft_s or 0) > 2 for each in some.served) / len(some.served) for some in (replay, alone)]
    assert late[0] < 0.35 and late[1] > 0.8


def test_seconds_of_replicas_are_counted_from_when_they_are_asked_for():
    replay = Simulator(Ongoing(), Bounds(min=2, max=2), MODEL).run([Arrival(0, 100, 1), Arrival(99.95, 100, 1)])
    assert replay.replica_s == pytest.approx(2 * 100.05)


def test_from_zero_the_request_is_held_and_the_replica_let_go_again():
    zero = Bounds(min=0, max=2, upscale_delay_s=30, downscale_delay_s=5)
    replay = Simulator(Tokens(), zero, MODEL).run([Arrival(2.5, 100, 11)], tail_s=60)
    # seen at 3 s, ready at 13 s; 0.1 s to read
    assert replay.served[0].ttft_s == pytest.approx(13 - 2.5 + 0.1)
    assert (replay.decisions[0]["at"], replay.decisions[0]["before"]) == (3.0, 0)
    # idle as long as a start takes, then gone; no second start in between
    assert [each["replicas"] for each in replay.decisions] == [1, 0]
    assert replay.decisions[1]["at"] >= 13 + 10 and replay.moments[-1].running == 0
    # one that waits longer than requests are held is refused, and said to be
    short = Simulator(Tokens(), zero, MODEL, hold_s=5).run([Arrival(2.5, 100, 11)])
    assert short.served[0].refused and short.served[0].ttft_s is None


def test_a_short_burst_that_is_over_before_a_replica_could_start_starts_none():
    slow = MODEL.model_copy(update={"cold_start_s": 120.0})
    # 20,000 tokens at once: 20 s of one replica
    arrivals = [Arrival(30 + 0.01 * number, 200, 2) for number in range(100)]
    patient = BOUNDS._replace(upscale_delay_s=5)
    replay = Simulator(Tokens(target_ttft_s=2), patient, slow).run(arrivals, tail_s=120)
    assert replay.decisions == []
    # one that starts at once is worth it
    quick = MODEL.model_copy(update={"cold_start_s": 1.0})
    assert Simulator(Tokens(target_ttft_s=2), patient, quick).run(arrivals, tail_s=120).decisions[0]["replicas"] > 1


def test_steady_load_does_not_flap():
    arrivals = poisson((900, 9))
    patient = BOUNDS._replace(upscale_delay_s=5)
    replay = Simulator(Tokens(target_ttft_s=2), patient, MODEL, replicas=3).run(arrivals)
    check(replay, arrivals)
    assert len(replay.decisions) <= 3
    # where requests are counted the same noise moves replicas all the time
    counted = Simulator(Ongoing(target=4), patient, MODEL, replicas=3).run(arrivals)
    assert len(counted.decisions) > 3 * len(replay.decisions)


def test_a_spare_answers_nobody():
    replay = Simulator(Ongoing(), Bounds(min=1, max=1, spare=1), MODEL).run([Arrival(0.0, 100, 1), Arrival(0.0, 100, 1)])
    assert replay.moments[-1].running == 2
    assert [each.ttft_s for each in replay.served] == pytest.approx([0.1, 0.2])
