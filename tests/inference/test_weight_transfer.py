"""Weights on their way to small generators: how much of them exists at a time, and what a lost generator costs the others."""

from __future__ import annotations

import numpy as np
import pytest

from raylm.inference.buckets import weights_digest
from raylm.inference.weight_transfer import Sender, send_weights
from tests.inference.plain import Plain
from tests.inference.small import Small

NAMED = [(str(number), np.full(4, number, np.float32)) for number in range(8)]
BUCKET = 16
"""Bytes: one tensor fills one bucket."""


def generators(*ends):
    import ray

    return [ray.remote(Small).options(num_cpus=0).remote(end) for end in ends]


def calls(actor):
    import ray

    return ray.get(actor.__ray_call__.remote(lambda self: self.calls))


@pytest.mark.ray
def test_at_most_two_buckets_exist_at_a_time(workers):
    import ray

    workers.ensure()
    (actor,) = generators(0)
    ahead, ticks = [], []

    def named():
        for number, one in enumerate(NAMED):
            ahead.append(number + 1 - max(calls(actor) - 1, 0))  # the first call opened the layers
            yield one

    sent = send_weights(named(), [actor], 4, 60.0, bucket_bytes=BUCKET, tick=lambda: ticks.append(1))
    # one that is taken, one that waits until it has been, and the tensor that is asked for
    assert max(ahead) <= 3
    assert sent[:2] == (weights_digest(NAMED), {}) and calls(actor) == 10 and ticks
    assert ray.get(actor.version.remote()) == 4
    ray.kill(actor)


@pytest.mark.ray
def test_a_generator_that_is_lost_does_not_keep_the_others(workers):
    import ray

    workers.ensure()
    actors = generators(0, 4, 0)
    sent = send_weights(NAMED, actors, 2, 60.0, bucket_bytes=BUCKET)
    assert sent.digest == weights_digest(NAMED) and list(sent.lost) == [1] and "process is dead" in sent.lost[1]
    assert [ray.get(actors[at].version.remote()) for at in (0, 2)] == [2, 2]
    for actor in actors:
        ray.kill(actor)


def named(seed, count=5, size=3000):
    """Tensors of several buckets, some larger than one."""
    rng = np.random.default_rng(seed)
    return {str(at): rng.standard_normal(size * (at + 1)).astype(np.float32) for at in range(count)}


def changed(arrays, share=0.01):
    """The same with some values changed."""
    rng, made = np.random.default_rng(1), {}
    for name, array in arrays.items():
        made[name] = array.copy()
        made[name][rng.integers(0, len(array), int(share * len(array)))] *= 1.5
    return made


@pytest.fixture(scope="module")
def plain(workers):
    """A generator that shares the sender's memory, and one as on another machine."""
    import ray

    workers.ensure()
    made = [ray.remote(Plain).options(num_cpus=0).remote(alone) for alone in (False, True)]
    seen(made)  # their processes have started
    yield made
    for actor in made:
        ray.kill(actor)


def seen(actors):
    import ray

    return ray.get([actor.seen.remote() for actor in actors])


def fail(actor, method):
    import ray

    ray.get(actor.fail.remote(method))


@pytest.mark.ray
def test_what_fits_is_laid_aside_and_loaded_at_once(plain):
    sender, digests = Sender(20_000, aside_bytes=10**6), []
    for version in (1, 2):
        arrays = named(version)
        sent = sender.send(arrays.items(), plain, version, 60.0)
        digests.append(sent.digest)
        assert sent.digest == weights_digest(arrays.items()) and sent.sent_bytes >= sum(a.nbytes for a in arrays.values())
        found = seen(plain)
        assert [one[:2] for one in found] == [(version, sent.digest)] * 2
        # the first one streams: nobody knew its size
        first = found[0][2].index("take")
        assert found[0][2][:first] == ["begin"] and found[0][2][-1] == "finish" and found[0][2].count("take") > 5
    assert digests[0] != digests[1]


@pytest.mark.ray
def test_a_transfer_that_breaks_off_leaves_the_version_before_it_in_use(plain):
    sender, arrays = Sender(20_000, aside_bytes=10**6), named(3)
    kept = sender.send(arrays.items(), plain, 3, 10.0).digest
    seen(plain)

    def broken():
        yield from list(named(4).items())[:4]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        sender.send(broken(), plain, 4, 10.0)
    assert seen(plain) == [(3, kept, [])] * 2, "no worker was touched"
    again = sender.send(named(5).items(), plain, 5, 10.0)
    assert [one[:2] for one in seen(plain)] == [(5, again.digest)] * 2


@pytest.mark.ray
@pytest.mark.parametrize("aside", [0, 10**6])
def test_one_that_cannot_load_has_no_version_until_all_came_again(plain, aside):
    sender = Sender(20_000, aside_bytes=aside)
    sender.send(named(5).items(), plain, 5, 10.0)
    fail(plain[0], "raylm_finish_weights")
    with pytest.raises(RuntimeError, match="this worker failed"):
        sender.send(named(6).items(), plain, 6, 10.0)
    assert seen(plain)[0][0] is None
    fail(plain[0], "")
    sent = sender.send(named(7).items(), plain, 7, 10.0)
    assert [one[:2] for one in seen(plain)] == [(7, sent.digest)] * 2


@pytest.mark.ray
def test_changes_alone_are_sent_and_are_exact(plain):
    sender, arrays = Sender(20_000, only="values"), named(1)
    first = sender.send(arrays.items(), plain, 1, 10.0)
    total = sum(array.nbytes for array in arrays.values())
    assert first.sent_bytes >= total
    for version in (2, 3):
        arrays = changed(arrays)
        sent = sender.send(arrays.items(), plain, version, 60.0)
        assert sent.sent_bytes * 5 < total, f"{sent.sent_bytes} of {total} bytes"
        assert [one[:2] for one in seen(plain)] == [(version, weights_digest(arrays.items()))] * 2
    nothing = sender.send(arrays.items(), plain, 4, 10.0)
    assert nothing.sent_bytes == 0 and [one[:2] for one in seen(plain)] == [(4, sent.digest)] * 2


@pytest.mark.ray
def test_changes_are_against_what_a_generator_committed_and_all_is_sent_to_one_without_it(plain):
    """After a stream that broke off, and after one generator failed to load: nothing is taken for sent that was not."""
    sender, arrays = Sender(20_000, only="values"), named(1)
    sender.send(arrays.items(), plain, 1, 10.0)
    arrays = changed(arrays)

    def broken():
        yield from list(arrays.items())[:3]
        raise ConnectionError

    with pytest.raises(ConnectionError):
        sender.send(broken(), plain, 2, 10.0)
    total = sum(array.nbytes for array in arrays.values())
    whole = sender.send(arrays.items(), plain, 3, 10.0)
    assert whole.sent_bytes >= total and [one[:2] for one in seen(plain)] == [(3, weights_digest(arrays.items()))] * 2
    # another sender's weights come in between to one of them
    Sender(20_000, only="values").send(named(9).items(), plain[1:], 9, 10.0)
    arrays = changed(arrays, 0.02)
    sent = sender.send(arrays.items(), plain, 4, 10.0)
    assert sent.sent_bytes >= total and [one[:2] for one in seen(plain)] == [(4, weights_digest(arrays.items()))] * 2
    arrays = changed(arrays, 0.02)
    assert sender.send(arrays.items(), plain, 5, 10.0).sent_bytes * 5 < total
    assert [one[:2] for one in seen(plain)] == [(5, weights_digest(arrays.items()))] * 2


@pytest.mark.ray
@pytest.mark.parametrize("table", [{}, {"use_dora": True}], ids=["lora", "dora"])
def test_an_adapter_that_goes_alone_is_merged_as_the_trainer_merges_it(plain, table):
    import torch

    from raylm.model.adapters.lora import Lora
    from tests.model.tiny import tiny_model

    card = Lora(rank=2, **table)
    model = card.attach(tiny_model(vocab=64), seed=0)
    total, bytes_sent, sender = 0, [], Sender(20_000, only="tensors")
    seen_alone(plain[:1])
    for version in range(3):
        with torch.no_grad():
            for one in model.parameters():
                if one.requires_grad:
                    one += 0.1 * torch.randn(one.shape, generator=torch.Generator().manual_seed(version))
        stream = [*model.state_dict().items()]
        total = sum(tensor.nbytes for _, tensor in stream)
        sent = sender.send(stream, plain[:1], version, 30.0, layers=model.adapted)
        expected = weights_digest(card.merge(model, stream))
        assert [one[:2] for one in seen_alone(plain[:1])] == [(version, expected)]
        bytes_sent.append(sent.sent_bytes)
    assert bytes_sent[0] >= total and max(bytes_sent[1:]) * 5 < total


def seen_alone(actors):
    """As `seen`, and the engines forget their tensors: those of other tests have other names."""
    import ray

    found = seen(actors)
    ray.get([actor.__ray_call__.remote(lambda self: self.weights.clear()) for actor in actors])
    return found
