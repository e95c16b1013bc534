"""Generators that are lost in every phase, prove that what a pool leaves does not depend on it."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from raylm.core.errors import DataError, PlacementError
from raylm.inference import pool as pools
from raylm.inference.calls import GeneratorLost
from raylm.inference.completions import Sampling
from raylm.inference.config import MEMORY_SHARE, GeneratorSpec
from raylm.inference.pool import MOST_LOST, Pool, pool_key
from raylm.inference.weight_transfer import send_weights
from tests.inference.small import Small

PROMPTS = [[row, row + 1] for row in range(20)]
SEEDS = [100 + row for row in range(20)]


def small_pool(count, *ends, hangs=False):
    """A pool whose actors end at these calls, in the order in which they are made."""
    import ray

    made, schedule = [], list(ends)

    def make(place):
        made.append(place)
        remote = ray.remote(Small).options(num_cpus=0)
        return remote.remote(schedule.pop(0) if schedule else 0, hangs and len(made) <= len(ends))

    pool = Pool(make, count)
    pool.start("somewhere", 16)
    return pool, made


def round_trip(pool):
    """Completions before and after new weights."""

    def send(actors, version):
        named = [(name, np.full(3, 0.5 * version, np.float32)) for name in ("a", "b")]
        # the second tensor does not fit beside the first one
        return send_weights(named, actors, version, 5.0, bucket_bytes=16)

    before = pool.generate(PROMPTS, Sampling(n=2), SEEDS)
    pool.sync(send, 3)
    after = pool.generate(PROMPTS, Sampling(n=2), SEEDS)
    assert {one.versions[0].version for group in after for one in group} == {3}
    return before, after


@pytest.fixture(scope="module")
def calm(workers):
    workers.ensure()
    pool, _ = small_pool(1)
    found = round_trip(pool)
    pool.close()
    assert found[1][4][1].tokens == [9, 104, 1] and found[1][4][1].logprobs == [1.5] * 3
    return found


@pytest.mark.ray
def test_completions_do_not_depend_on_the_number_of_generators(calm):
    pool, _ = small_pool(3)
    assert round_trip(pool) == calm
    assert all(ray_calls(actor) > 4 for actor in pool._actors), "one of them had nothing to do"
    pool.close()


def ray_calls(actor):
    import ray

    return ray.get(actor.__ray_call__.remote(lambda self: self.calls))


@pytest.mark.ray
@pytest.mark.parametrize("at", [5, 21, 22, 24, 30], ids=["generate", "begin", "take", "finish", "generate again"])
def test_a_generator_that_is_lost_in_any_phase_changes_nothing_but_itself(calm, at, capsys):
    pool, made = small_pool(1, at)
    assert round_trip(pool) == calm
    assert made == [0, 0] and "a fresh one takes the newest weights and goes on (1)" in capsys.readouterr().err
    pool.close()


@pytest.mark.ray
def test_of_two_the_other_one_goes_on(calm):
    pool, made = small_pool(2, 0, 3)
    assert round_trip(pool) == calm
    assert made == [0, 1, 1]
    pool.close()


@pytest.mark.ray
def test_generators_that_are_lost_again_and_again_end_the_run(calm):
    pool, made = small_pool(1, *[3] * 9)
    with pytest.raises(
        PlacementError, match=f"generator 0 was lost {MOST_LOST + 1} times without a batch of completions in between: .*dead"
    ):
        pool.generate(PROMPTS, Sampling(), SEEDS)
    assert len(made) == 1 + MOST_LOST
    pool.close()


@pytest.mark.ray
def test_one_that_stands_still_is_replaced(calm, monkeypatch):
    monkeypatch.setattr(pools, "PING_S", 0.5)
    pool, made = small_pool(1, 5, hangs=True)
    pool.hang_s = 1.0
    assert round_trip(pool) == calm
    assert made == [0, 0]
    pool.close()


@pytest.mark.ray
def test_what_a_generator_refuses_is_raised(calm):
    pool, made = small_pool(1)
    with pytest.raises(DataError, match="0 tokens"):
        pool.generate([[1], [], [2]], Sampling())
    assert made == [0]
    pool.close()


def test_losses_are_counted_by_place():
    """A node with many generators that dies is one loss of each."""

    class Held(Pool):
        def _renew(self, place):
            renewed.append(place)

        def _answered(self, reference):
            pass

    renewed: list[int] = []
    started = SimpleNamespace(start=SimpleNamespace(remote=lambda **_: None))
    pool = Held(lambda place: started, MOST_LOST + 2)
    for place in [*range(MOST_LOST + 2)] * MOST_LOST:
        pool._replace(place, GeneratorLost("the node died"))
    assert len(renewed) == (MOST_LOST + 2) * MOST_LOST
    with pytest.raises(PlacementError, match=f"generator 2 was lost {MOST_LOST + 1} times"):
        pool._replace(2, GeneratorLost("the node died"))


def test_engines_that_share_a_gpu_take_their_part_of_its_memory():
    found = [GeneratorSpec(**table).memory_share for table in ({}, {"gpus": 2}, {"gpus": 1}, {"gpus": 0.5}, {"gpus": 0.25})]
    assert found == [MEMORY_SHARE] * 3 + [MEMORY_SHARE / 2, MEMORY_SHARE / 4]


def test_generators_are_held_by_their_resources():
    keys = [pool_key(GeneratorSpec(**table)) for table in ({}, {"gpus": 1}, {"gpus": 0.5}, {"cpus": 2}, {"count": 2})]
    assert len(set(keys)) == len(keys)
    assert not any(one != other and one.startswith(other) for one in keys for other in keys)
    assert pool_key(GeneratorSpec(hang_s=5)) == keys[0]


def test_a_stage_never_gets_the_generators_of_another_size(monkeypatch):
    """What is held for CPUs is closed before a stage gets one with a GPU."""
    from raylm.core.workers import Workers

    class Made:
        def __init__(self, make, count):
            closed.append("made")

        def close(self):
            closed.append("closed")

    closed: list[str] = []
    workers = Workers()
    workers._started = True  # nothing here is a process
    monkeypatch.setattr(pools, "Pool", Made)
    first = pools.hold_pool(workers, GeneratorSpec())
    assert pools.hold_pool(workers, GeneratorSpec(hang_s=7)) is first and first.hang_s == 7
    assert pools.hold_pool(workers, GeneratorSpec(gpus=0.5)).memory_share == MEMORY_SHARE / 2
    assert closed == ["made", "closed", "made"]
