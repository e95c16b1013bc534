"""What comes of two transfers at once."""

from __future__ import annotations

import asyncio

import numpy as np
import pytest

from raylm.core.errors import ArtifactError
from raylm.inference.buckets import pack, weights_digest
from tests.inference.plain import Plain

BUCKET = 1000


def named(seed):
    rng = np.random.default_rng(seed)
    return {f"w{at}": rng.standard_normal(700 + at).astype("float32") for at in range(3)}


def buckets(arrays):
    return [one._replace(data=one.data.copy()) for one in pack(arrays.items(), BUCKET)]


class Slow(Plain):
    """Its workers take long enough for another call to come in between."""

    async def _workers(self, method, *args):
        await asyncio.sleep(0.005)
        return await super()._workers(method, *args)


def test_a_bucket_that_still_loads_when_the_next_transfer_begins_is_no_part_of_it():
    """Its sender broke off: nobody waits for the bucket's end."""

    async def both():
        made, arrays = Slow(), named(2)
        await made.begin_weights("first")
        late = asyncio.create_task(made.intake.take(buckets(named(1))[0], "first"))
        await asyncio.sleep(0.002)
        await made.begin_weights("second")
        for bucket in buckets(arrays):
            await made.intake.take(bucket, "second")
        await made.finish_weights(2, weights_digest(arrays.items()), "second")
        await late
        assert await made.seen() == (2, weights_digest(arrays.items()), made_log)
        with pytest.raises(ArtifactError, match="transfer first came, the one begun last is none"):
            await made.intake.take(buckets(named(1))[1], "first")
        await made.intake.close()

    made_log = ["begin", "take", "begin", *["take"] * len(buckets(named(2))), "finish"]
    asyncio.run(both())
