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
    points = (Point(0.0, 0, waiting - 10 * rising_s), Point(10.0, int(10 * read_s), waiting))
    return Flow(points=points, capacity=capacity, carried=carried)


def two(**fields: float) -> Observed:
    busy = Load(4, 0, 0, 0.1, 0.2, 100.0, 0)._replace(**fields)
    return Observed(0.0, 2, {"a": busy, "b": busy})


def test_a_queue_asks_for_as_many_as_clear_it_in_time():
    # 1,500/s arrive: at 0.8 of 1,000 they are 1.9 replicas'; 6,000 wait, which 2 s allow: 1,500 + 3,000 are 4.5 replicas'
    need = CARD.needs(two(queued_tokens=3000), flow(1500, 6000), ROOM)
    assert (need.replicas, need.kind) == (pytest.approx(4.5), "queue")
    assert "1500 tokens/s arrive and 6000 wait (3.0 s)" in need.why


def test_what_a_new_replica_would_come_too_late_for_asks_for_none():
    # nothing arrives any more; 20,000 wait for 10 s of two replicas, and a start takes 30 s
    late = ROOM._replace(cold_start_s=30.0)
    need = CARD.needs(two(queued_tokens=10_000), flow(2000, 20_000, rising_s=-2000), late)
    assert need.replicas < 2
    # with a start of 5 s: 20,000 / 5 are 4 replicas'
    need = CARD.needs(two(queued_tokens=10_000), flow(2000, 20_000, rising_s=-2000), ROOM._replace(cold_start_s=5.0))
    assert need.replicas == pytest.approx(4.0)


def test_tokens_that_arrive_ask_for_room():
    # 1,700/s of 0.8 * 1,000: 2.1
    assert CARD.needs(two(), flow(1700, 0), ROOM).replicas == pytest.approx(2.125)


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
    need = CARD.needs(two(running=256)._replace(held=100), flow(100, 0, capacity=None), ROOM)
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
    assert CARD.needs(idle, flow(0, 0), ROOM) == (0.0, "nobody asks", "idle")
    # whoever is under way needs one
    assert 0 < CARD.needs(two(running=1, tokens_s=0.0), flow(0, 0), ROOM).replicas <= 1
