"""Weights on their way to small generators: how much of them exists at a time, and what a lost generator costs the others."""

from __future__ import annotations

import numpy as np
import pytest

from raylm.inference.buckets import weights_digest
from raylm.inference.weight_transfer import send_weights
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

    sent = send_weights(named(), [actor], 4, 5.0, bucket_bytes=BUCKET, tick=lambda: ticks.append(1))
    # one that is taken, one that waits until it has been, and the tensor that is asked for
    assert max(ahead) <= 3
    assert sent == (weights_digest(NAMED), {}) and calls(actor) == 10 and ticks
    assert ray.get(actor.version.remote()) == 4
    ray.kill(actor)


@pytest.mark.ray
def test_a_generator_that_is_lost_does_not_keep_the_others(workers):
    import ray

    workers.ensure()
    actors = generators(0, 4, 0)
    sent = send_weights(NAMED, actors, 2, 5.0, bucket_bytes=BUCKET)
    assert sent.digest == weights_digest(NAMED) and list(sent.lost) == [1] and "process is dead" in sent.lost[1]
    assert [ray.get(actors[at].version.remote()) for at in (0, 2)] == [2, 2]
    for actor in actors:
        ray.kill(actor)
