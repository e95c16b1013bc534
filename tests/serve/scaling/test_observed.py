"""Hand-worked looks at replicas: what arrives, what one reads at its most, and what is not counted."""

from __future__ import annotations

from collections.abc import Mapping

import pytest

from raylm.serve.directory import Load
from raylm.serve.scaling.observed import Flow, Observed, follow


def seen(*looks: Mapping[str, Load | None], every_s: float = 1.0, held: int = 0) -> Flow:
    flow = Flow()
    for number, loads in enumerate(looks):
        flow = follow(flow, Observed(number * every_s, 1, loads, held), look_back_s=10.0)
    return flow


def load(read: int, queued: int = 0, **more: float) -> Load:
    return Load(1, int(queued > 0), queued, 0.1, read_tokens=read)._replace(**more)


def test_what_arrives_is_what_is_read_and_what_waits_more():
    # 100 tokens/s are read, and 50 more wait each second
    flow = seen(*({"a": load(100 * second, 50 * second)} for second in range(6)))
    assert (flow.read_s, flow.arriving_s(), flow.waiting) == (100.0, 150.0, 250.0)
    # and in the last two of them, when nothing more came
    flow = seen(*({"a": load(100 * t, 50 * min(t, 3) - 100 * max(t - 3, 0) + 1000)} for t in range(6)))
    assert (flow.arriving_s(2), flow.arriving_s(0.1)) == (0.0, 0.0) and flow.arriving_s(4) == (400 - 100) / 4


def test_capacity_is_what_a_replica_reads_while_it_is_never_idle():
    # more waits at each look than is read until the next
    flow = seen(*({"a": load(100 * second, 500)} for second in range(4)))
    assert flow.capacity == 100.0
    # 200 tokens/s in the next three seconds count for three tenths
    flow = seen(*({"a": load(100 * min(t, 3) + 200 * max(t - 3, 0), 500)} for t in range(7)))
    assert flow.capacity == pytest.approx(100 + 0.3 * 100)


def test_a_replica_that_may_have_been_idle_teaches_nothing():
    # 60 or 100 wait at each look and 100 are read until the next: it may have waited for what came after them
    for waiting in (60, 100):
        flow = seen(*({"a": load(100 * second, waiting)} for second in range(12)))
        assert flow.capacity is None
    # but it has carried so much
    assert flow.carried == 100.0


def test_what_was_read_before_the_first_look_does_not_count():
    flow = seen({"a": load(100)}, {"a": load(200)}, {"a": load(300), "b": load(5_000)}, {"a": load(400), "b": load(5_100)})
    assert flow.read_s == pytest.approx((100 + 100 + 200) / 3)
    # an engine that began anew counts from zero
    flow = seen({"a": load(9_000)}, {"a": load(9_100)}, {"a": load(50)}, {"a": load(150)})
    assert flow.read_s == pytest.approx(200 / 3)


def test_unknown_loads_are_left_out():
    flow = seen({"a": load(0), "b": None}, {"a": load(100), "b": None}, {"a": load(200), "b": Load(running=3)})
    assert flow.read_s == 100.0
    assert set(flow.readings) == {"a"}
    assert Observed(0, 1, {"a": None}).known == []


def test_held_requests_are_estimated_by_those_that_wait():
    looks = [{"a": load(0, 1000, waiting=4)}]
    assert seen(*looks, held=2).waiting == 1000 + 2 * 250
    assert Observed(0, 1, looks[0], held=2).ongoing == 2 + 1 + 4


def test_only_the_last_seconds_are_kept():
    flow = seen(*({"a": load(100 * second)} for second in range(500)))
    assert len(flow.points) == 11 and flow.span_s == 10.0
