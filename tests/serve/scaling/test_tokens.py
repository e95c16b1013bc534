"""Hand-worked needs of the tokens card."""

from __future__ import annotations

import pytest

from raylm.serve.directory import Load
from raylm.serve.scaling.observed import Flow, Observed, Point
from raylm.serve.scaling.scaling import Room
from raylm.serve.scaling.tokens import Tokens

CARD = Tokens(target_ttft_s=2.0, target_use=0.8, target_kv=0.8)
ROOM = Room(answering=2, most_ongoing=256, cold_start_s=1.0)


def flow(read_s: float, waiting: float, rising_s: float = 0.0, capacity: float | None = 1000.0, carried: float = 0.0) -> Flow:
    """Prompts of 100 tokens."""
    points = (Point(0.0, 0, waiting - 10 * rising_s), Point(10.0, int(10 * read_s), waiting, int(read_s / 10)))
    return Flow(points=points, capacity=capacity, carried=carried, per_request=100.0)


def two(**fields: float) -> Observed:
    busy = Load(4, 0, 0, 0.1, 0.2, 100.0, 0)._replace(**fields)
    return Observed(0.0, 2, {"a": busy, "b": busy})


def test_a_queue_asks_for_what_will_wait_when_another_could_start():
    # 2,500/s arrive, two read 2,000: of 3,000 that wait, 3,500 will after a start of 1 s, which 2 s may take
    need = CARD.needs(two(queued_tokens=1500), flow(2500, 3000), ROOM)
    assert (need.replicas, need.kind) == (pytest.approx(2.5 + 3.5 / 2), "queue")
    assert "2500 tokens/s arrive, 3000 wait, 3500 will when another could start" in need.why
    # with a third on its way, for half of the time: 3,000
    starting = two(queued_tokens=1500)._replace(target=3)
    assert CARD.needs(starting, flow(2500, 3000), ROOM).replicas == pytest.approx(2.5 + 3.0 / 2)


def test_what_a_new_replica_would_come_too_late_for_asks_for_none():
    # nothing arrives any more; 20,000 wait for 10 s of two replicas, and a start takes 10 s
    over = flow(2000, 20_000, rising_s=-2000)
    assert CARD.needs(two(queued_tokens=10_000), over, ROOM._replace(cold_start_s=10.0)).replicas <= 2
    # a start of 4 s: 12,000 will wait then, which 4 s may take
    need = CARD.needs(two(queued_tokens=10_000), over, ROOM._replace(cold_start_s=4.0))
    assert need.replicas == pytest.approx(3.0)


def test_tokens_that_arrive_ask_for_room():
    # 1,700/s of 0.8 * 1,000
    assert CARD.needs(two(), flow(1700, 0), ROOM).replicas == pytest.approx(2.125)
    # prompts of 800 tokens take 0.8 s of 2: 1.5 of them must find room in the other 1.2 s
    long = flow(1500, 0)._replace(per_request=800.0)
    assert CARD.needs(two(), long, ROOM).replicas == pytest.approx(1.5 + 1.5 * 0.8 / 1.2)
    # what arrives for a moment, and is more than can be read, asks for more and does not keep it: none for 30 s, then 2,500/s
    rising = Flow(points=(Point(0, 0, 0), Point(30, 0, 0), Point(34, 10_000, 0, 100)), capacity=1000.0, per_request=100.0)
    need = CARD.needs(two(), rising, ROOM)
    assert need.replicas == pytest.approx(2.5 + 0.5 / 2) and need.stays == pytest.approx((10_000 / 34 + 150 / 1.9) / 1000)


def test_a_late_first_token_asks_for_more_only_where_prompts_wait():
    unknown = flow(100, 400, capacity=None)
    need = CARD.needs(two(ttft_s=3.0, queued_tokens=200), unknown, ROOM)
    assert (need.replicas, need.kind) == (pytest.approx(3.0), "ttft")
    # a long prompt alone: two read it no faster
    assert CARD.needs(two(ttft_s=3.0), flow(100, 0, capacity=None), ROOM).kind != "ttft"
    # twice as many at most
    assert CARD.needs(two(ttft_s=60.0, queued_tokens=200), unknown, ROOM).replicas == 4.0
    # a replica that starts has not helped yet
    starting = two(ttft_s=60.0, queued_tokens=200)._replace(target=3)
    assert CARD.needs(starting, unknown, ROOM).kind != "ttft"


def test_full_caches_and_full_replicas_ask_for_more():
    need = CARD.needs(two(kv_use=0.96), flow(100, 0), ROOM)
    assert (need.replicas, need.kind) == (pytest.approx(2.4), "kv")
    need = CARD.needs(two(running=256)._replace(held=100), flow(100, 0, capacity=None), ROOM)  # nobody knows their pace
    assert (need.replicas, need.kind) == (pytest.approx(612 / 256), "room")


def test_a_replica_that_the_others_cannot_replace_is_kept():
    # each was seen to carry 600/s at most, and nothing more is known: 1,000/s need 1.7
    need = CARD.needs(two(), flow(1000, 0, capacity=None, carried=600), ROOM)
    assert (need.replicas, need.kind) == (pytest.approx(1000 / 600), "steady")
    # what was carried is a lower bound: it keeps two, and asks for no third
    assert CARD.needs(two(), flow(1000, 0, capacity=None, carried=100), ROOM).replicas == 2.0
    # long answers: 100/s of each are made, 120/s at the most so far
    long = flow(0, 0, capacity=None)._replace(made=120.0)
    assert CARD.needs(two(), long, ROOM).replicas == pytest.approx(200 / 120)


def test_nobody_asks():
    idle = two(running=0, tokens_s=0.0, kv_use=0.0)
    assert CARD.needs(idle, flow(0, 0), ROOM)[:3] == (0.0, "nobody asks", "idle")
    # whoever is under way needs one
    assert 0 < CARD.needs(two(running=1, tokens_s=0.0), flow(0, 0), ROOM).replicas <= 1
