"""Generators that are lost in every phase, prove that what a pool leaves does not depend on it."""

from __future__ import annotations

import threading
import time

import numpy as np
import pytest

from raylm.core.errors import DataError, PlacementError
from raylm.inference import pool as pools
from raylm.inference.completions import Quarantined, Sampling
from raylm.inference.config import MEMORY_SHARE, GeneratorSpec
from raylm.inference.health import State
from raylm.inference.pool import Pool, pool_key
from raylm.inference.weight_transfer import Probe, send_weights
from tests.inference.small import Small

PROMPTS = [[row, row + 1] for row in range(20)]
SEEDS = [100 + row for row in range(20)]


def small_pool(count, *ends, hangs=False, keeps=(), **limits):
    """A pool whose actors end at these calls, and do not take these versions, in the order in which they are made."""
    import ray

    made, schedule = [], list(ends)

    def make(place):
        made.append(place)
        remote = ray.remote(Small).options(num_cpus=0)
        kept = keeps[len(made) - 1] if len(made) <= len(keeps) else -1
        return remote.remote(schedule.pop(0) if schedule else 0, hangs and len(made) <= len(ends), kept)

    pool = Pool(make, count)
    pool.limit(GeneratorSpec(**limits))
    pool.start("somewhere", 16)
    return pool, made


def round_trip(pool):
    """Completions before and after new weights."""

    before = pool.generate(PROMPTS, Sampling(n=2), SEEDS)
    pool.sync(sender(), 3)
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
    with pytest.raises(PlacementError, match=r"generator 0 was lost 4 times without a batch of completions in between: .*dead"):
        pool.generate(PROMPTS, Sampling(), SEEDS)
    assert len(made) == 4
    pool.close()


@pytest.mark.ray
def test_one_that_stands_still_is_replaced(calm):
    pool, made = small_pool(1, 5, hangs=True, ping_s=1.0)
    assert round_trip(pool) == calm
    assert made == [0, 0]
    pool.close()


def sender(value=None, probed=False):
    """Two tensors; the second one does not fit beside the first one. With what a trainer would say of two sequences."""

    def send(actors, version):
        fill = 0.5 * version if value is None else value
        named = [(name, np.full(3, fill, np.float32)) for name in ("a", "b")]
        probe = tuple(Probe(tokens, [-fill - token for token in tokens[1:]]) for tokens in ([1, 2, 3], [4, 5]))
        return send_weights(named, actors, version, 5.0, bucket_bytes=16)._replace(probe=probe if probed else ())

    return send


def until(found, pool, count):
    """All that comes until `count` requests are answered."""
    while len(found) < count:
        got = pool.wait(20.0)
        assert got, f"{len(found)} of {count} came"
        found.update(got)
    return found


@pytest.mark.ray
def test_requests_are_asked_and_collected_one_by_one(calm):
    pool, _ = small_pool(2)
    assert pool.wait(5.0) == [], "nothing is under way: there is nothing to wait for"
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        pool.submit(("row", row), prompt, Sampling(n=2), seed)
    with pytest.raises(ValueError, match=r"\('row', 3\) is under way"):
        pool.submit(("row", 3), [1], Sampling(), 1)
    assert pool.cancel(("row", 19)) and not pool.cancel("nobody")
    # somebody else's requests go their own way
    assert pool.generate([[7]], Sampling(), [5])[0][0].tokens == [7, 5, 0]
    found = until({}, pool, 19)
    assert found == {("row", row): calm[0][row] for row in range(19)}
    assert not pool.cancel(("row", 3)) and pool.wait(5.0) == []
    pool.submit("bad", [], Sampling(), 0)
    pool.submit("good", [1], Sampling(), 0)
    got = []
    with pytest.raises(DataError, match="0 tokens"):
        while True:
            got += pool.wait(5.0)
    assert [key for key, _ in got + (pool.wait(5.0) if not got else [])] == ["good"]
    assert pool.health() == {0: State.HEALTHY, 1: State.HEALTHY}
    pool.close()


@pytest.mark.ray
def test_weights_are_sent_from_a_thread_while_requests_are_under_way(calm):
    """And a generator that is lost meanwhile comes to the same weights, while the other one goes on."""
    pool, made = small_pool(2, 0, 12)
    for row in range(20):
        pool.submit(row, PROMPTS[row], Sampling(n=2), SEEDS[row])
    thread = threading.Thread(target=pool.sync, args=(sender(), 3))
    thread.start()
    found = until({}, pool, 20)
    thread.join()
    versions = {one.versions[0].version for group in found.values() for one in group}
    assert versions <= {0, 3} and [one[0].tokens for one in found.values()] and len(found) == 20
    assert {row: [one.tokens for one in group] for row, group in found.items()} == {
        row: [one.tokens for one in group] for row, group in enumerate(calm[0])
    }
    after = pool.generate(PROMPTS, Sampling(n=2), SEEDS)
    assert after == calm[1] and made == [0, 1, 1]
    pool.close()


@pytest.mark.ray
def test_a_late_one_that_takes_other_weights_gets_no_work(calm):
    """Where the trainer has made a step since the transfer, what it sends is not the version that the others hold."""
    moved = []
    pool, made = small_pool(2)

    def send(actors, version):
        return sender(9.0 if moved else None)(actors, version)

    pool.sync(send, 3)
    moved.append(True)
    kill(pool, 1)
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[1]
    wait_for_state(pool, 1, State.STALE)
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[1]
    assert made == [0, 1, 1] and pool.health() == {0: State.HEALTHY, 1: State.STALE}
    pool.sync(send, 4)
    assert pool.health() == {0: State.HEALTHY, 1: State.HEALTHY}
    pool.close()


def kill(pool, place):
    import ray

    ray.kill(pool._actors[place])


def wait_for_state(pool, place, state):
    until = time.monotonic() + 20
    while pool.health()[place] is not state:
        assert time.monotonic() < until, f"generator {place} is {pool.health()[place]}"
        time.sleep(0.02)


@pytest.mark.ray
def test_one_that_does_not_compute_with_what_it_took_is_caught_in_the_same_sync(calm, capsys):
    """What requests under way got of it is not believed, either."""
    pool, made = small_pool(2, keeps=[-1, 3])
    for row in range(20):
        pool.submit(row, PROMPTS[row], Sampling(n=2), SEEDS[row])
    pool.sync(sender(probed=True), 3)
    # no answer of version 3 came from weights that are not version 3
    found = until({}, pool, 20)
    assert all(one.logprobs == [0.5 * one.versions[0].version] * 3 for group in found.values() for one in group)
    assert pool.counts() == {"generators_lost": 1, "generators_refused": 1} and made == [0, 1, 1]
    said = "generator 1 took version 3 of the weights and does not compute with it: its log-probabilities of 2 sequences differ"
    assert f"{said} from the trainer's by 1.5 on average, 0.001 are allowed" in capsys.readouterr().err
    # its successor is asked, too
    wait_for_state(pool, 1, State.HEALTHY)
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[1]
    assert ray_calls(pool._actors[1]) > 6, "a transfer, two probes and requests"
    pool.close()


@pytest.mark.ray
def test_where_no_generator_computes_with_what_it_took_the_run_ends(calm):
    pool, _ = small_pool(2, keeps=[3] * 4, max_restarts=1)
    pool.sync(sender(probed=True), 3)
    with pytest.raises(PlacementError, match=r"generator . took version 3 of the weights and does not compute with it"):
        pool.generate(PROMPTS, Sampling(n=2), SEEDS)
    assert pool.counts() == {"generators_lost": 4, "generators_refused": 4}
    pool.close()


@pytest.mark.ray
def test_one_that_is_lost_while_it_is_probed_is_replaced(calm):
    """Four calls of a transfer, and the second probe."""
    pool, made = small_pool(2, 6)
    pool.sync(sender(probed=True), 3)
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[1] and made == [0, 1, 0]
    pool.close()


@pytest.mark.ray
def test_a_transfer_that_breaks_off_is_said(calm):
    pool, _ = small_pool(1)
    pool.sync(sender(), 3)

    def refused(actors, version):
        raise ConnectionError

    with pytest.raises(ConnectionError):
        pool.sync(refused, 4)
    # it touched nothing
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[1]

    def half(actors, version):
        ray.get([actor.begin_weights.remote("half", None) for actor in actors])
        raise ConnectionError

    import ray

    with pytest.raises(ConnectionError):
        pool.sync(half, 4)
    with pytest.raises(PlacementError, match="no whole set of weights: the last transfer broke off"):
        pool.generate(PROMPTS, Sampling(n=2), SEEDS)
    pool.sync(sender(), 3)
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[1]
    pool.close()


@pytest.mark.ray
def test_one_that_is_lost_again_and_again_is_given_up_and_the_other_one_goes_on(calm, capsys):
    pool, made = small_pool(2, 0, 3, 1, 1, 1, max_restarts=2)
    until = time.monotonic() + 30
    while pool.health()[1] is not State.DEAD:
        assert time.monotonic() < until
        assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[0]
    assert made == [0, 1, 1, 1] and "generator 1 was lost 3 times and is given up" in capsys.readouterr().err
    assert round_trip(pool) == calm
    pool.close()


@pytest.mark.ray
def test_a_request_that_ends_its_generators_is_named(calm):
    pool, _ = small_pool(2, max_restarts=1)
    pool.submit("poison", [13, 13], Sampling(), 0)
    with pytest.raises(PlacementError, match="a prompt of 2 tokens was lost with its generator 2 times"):
        pool.wait(20.0)
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[0]
    pool.close()


@pytest.mark.long
@pytest.mark.ray
def test_a_prompt_that_ends_its_generators_is_set_aside_and_costs_no_other(calm, capsys):
    pool, made = small_pool(1)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        pool.submit(row, prompt, Sampling(n=2), seed)
        if row in (3, 7):
            pool.submit(("poison", row), [13, 13], Sampling(n=row), 0)
    found = until({}, pool, 22)
    assert {row: found[row] for row in range(20)} == dict(enumerate(calm[0]))
    for row in (3, 7):
        assert isinstance(found["poison", row], Quarantined) and found["poison", row].deaths >= 3
    said = capsys.readouterr().err
    assert said.count("on it alone: it is set aside") == 1 and "a prompt of 2 tokens ended" in said
    # it is known now: no generator is asked, and `generate`, which has nothing to say it with, raises
    count = len(made)
    pool.submit("again", [13, 13], Sampling(), 1)
    assert until({}, pool, 1)["again"].deaths >= 3 and pool.num_quarantined() == 1 and len(made) == count
    with pytest.raises(PlacementError, match="lost"):
        pool.generate([[13, 13]], Sampling(), [0])
    pool.close()


@pytest.mark.long
@pytest.mark.ray
def test_generators_that_end_whatever_they_are_asked_end_the_run_all_the_same(calm):
    pool, made = small_pool(1, *[1] * 40)
    for row, (prompt, seed) in enumerate(zip(PROMPTS, SEEDS, strict=True)):
        pool.submit(row, prompt, Sampling(n=2), seed)
    with pytest.raises(PlacementError, match="lost 4 times"):
        until({}, pool, 20)
    assert len(made) < 12
    pool.close()


@pytest.mark.ray
def test_a_start_beside_a_call_ends_that_call(calm):
    pool, _ = small_pool(1)
    told: list[str] = []

    def ask():
        try:
            pool.generate(PROMPTS * 400, Sampling(n=2))
        except PlacementError as cause:
            told.append(cause.what)

    thread = threading.Thread(target=ask)
    thread.start()
    while not pool._requests.running:
        time.sleep(0.01)
    pool.start("somewhere", 16)
    thread.join(timeout=20)
    assert not thread.is_alive() and "started anew while they were asked" in told[0]
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[0]
    pool.close()


@pytest.mark.ray
def test_what_a_generator_refuses_is_raised(calm):
    pool, made = small_pool(1)
    with pytest.raises(DataError, match="0 tokens"):
        pool.generate([[1], [], [2]], Sampling())
    assert made == [0]
    pool.close()


@pytest.mark.ray
def test_generators_sleep_while_the_trainer_works_and_wake_with_its_weights(calm):
    pool, made = small_pool(2)
    with pytest.raises(PlacementError, match="cannot sleep before weights were sent"):
        pool.sleep()
    pool.sync(sender(probed=True), 2)
    for row in range(20):
        pool.submit(row, PROMPTS[row], Sampling(n=2), SEEDS[row])
    pool.sleep()
    assert set(pool.health().values()) == {State.STALE}
    # its memory is lent: a lost one is replaced when it comes back
    kill(pool, 1)
    wait_for_state(pool, 1, State.DEAD)
    time.sleep(0.3)
    assert made == [0, 1] and pool.health()[0] is State.STALE
    pool.sync(sender(probed=True), 3)
    found = until({}, pool, 20)
    assert {one.versions[0].version for group in found.values() for one in group} <= {2, 3}
    assert all(one.logprobs == [0.5 * one.versions[0].version] * 3 for group in found.values() for one in group)
    wait_for_state(pool, 1, State.HEALTHY)
    # without new weights they take those that they had
    pool.sleep()
    pool.wake()
    assert pool.generate(PROMPTS, Sampling(n=2), SEEDS) == calm[1] and made == [0, 1, 1]
    pool.close()


def test_options_of_the_engine():
    assert GeneratorSpec().options == GeneratorSpec(sleeps=True).options == {}
    spec = GeneratorSpec(gpus=2, tensor_parallel=2, max_num_seqs=64, enable_prefix_caching=False, kv_cache_dtype="fp8")
    assert spec.model_copy(update={"sleeps": True}).options == {
        "tensor_parallel_size": 2,
        "max_num_seqs": 64,
        "enable_prefix_caching": False,
        "kv_cache_dtype": "fp8",
        "enable_sleep_mode": True,
    }
    for gpus in (0, 1, 4):
        with pytest.raises(ValueError, match="tensor_parallel = 2 needs gpus = 2, not"):
            GeneratorSpec(gpus=gpus, tensor_parallel=2)


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

        def limit(self, spec):
            self.hang_s, self.memory_share = spec.hang_s, spec.memory_share

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
