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
    """Prompts of 50 tokens."""
    return Load(1, int(queued > 0), queued, 0.1, read_tokens=read, read_prompts=read // 50)._replace(**more)


def test_what_arrives_is_what_is_read_and_what_waits_more():
    # 100 tokens/s are read, and 50 more wait each second
    flow = seen(*({"a": load(100 * second, 50 * second)} for second in range(6)))
    assert (flow.read_s, flow.arriving_s(), flow.waiting) == (100.0, 150.0, 250.0)
    # and in the last two of them, when nothing more came
    flow = seen(*({"a": load(100 * t, 50 * min(t, 3) - 100 * max(t - 3, 0) + 1000)} for t in range(6)))
    assert (flow.arriving_s(2), flow.arriving_s(0.1)) == (0.0, 0.0) and flow.arriving_s(4) == (400 - 100) / 4


def test_capacity_is_what_a_replica_reads_while_it_is_never_idle():
    # more waits at each look than is read until the next; the first second is enough to begin with (the size of prompts is known
    # from then on)
    flow = seen(*({"a": load(100 * second, 600)} for second in range(2)))
    assert (flow.capacity, flow.per_request) == (100.0, 50.0)
    # 200 tokens/s in the next three seconds count for three tenths
    flow = seen(*({"a": load(100 * min(t, 1) + 200 * max(t - 1, 0), 600)} for t in range(5)))
    assert flow.capacity == pytest.approx(100 + 0.3 * 100)


def test_a_replica_that_may_have_been_idle_teaches_nothing():
    # 60, 100 or 120 wait at each look and 100 are read until the next: it may have waited for what came after them
    found = [seen(*({"a": load(100 * second, waiting)} for second in range(12))) for waiting in (60, 100, 120)]
    assert [flow.capacity for flow in found] == [None] * 3
    # but it has carried so much, where few waited
    assert [flow.carried for flow in found] == [100.0, 100.0, 0.0]


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


def test_a_long_prompt_alone_teaches_nothing():
    # a prompt of 400 tokens is read in 4 s, then comes the next: half of the looks find one that is not done
    flow = seen(*({"a": load(400 * (t // 8), 400 if t % 8 < 4 else 0, read_prompts=t // 8)} for t in range(33)))
    assert flow.capacity is None and flow.per_request == 400.0


def test_held_requests_are_estimated_by_those_that_were_read():
    looks = [{"a": load(100 * t, 1000, waiting=4)} for t in range(2)]
    assert seen(*looks, held=2).waiting == 1000 + 2 * 256
    assert seen(*looks, looks[-1], held=2).waiting == 1000 + 2 * 50
    assert Observed(0, 1, looks[0], held=2).ongoing == 2 + 1 + 4


def test_what_arrives_is_counted_over_enough_prompts():
    # 2 prompts a second until 30 s, then 8
    looks = [{"a": load(100 * min(t, 30) + 400 * max(t - 30, 0))} for t in range(36)]
    flow = seen(*looks)
    assert (flow.arriving_s(3), flow.arriving_s(3, 16), flow.arriving_s(1, 16)) == (400, 400, 400)
    # before it, 16 prompts are 8 s
    flow = seen(*looks[:32])
    assert flow.arriving_s(3, 16) == pytest.approx((400 + 4 * 100) / 5) and flow.arriving_s() == pytest.approx((400 + 900) / 10)


def test_only_the_last_seconds_are_kept():
    flow = seen(*({"a": load(100 * second)} for second in range(500)))
    assert len(flow.points) == 11 and flow.span_s == 10.0
