"""Tensors of every kind through buckets of every size."""

from __future__ import annotations

import numpy
import pytest
import torch

from raylm.inference import buckets
from raylm.inference.buckets import Receiver, WeightsDigest, as_array, pack, weights_digest


def tensors():
    torch.manual_seed(0)
    return {
        "a": torch.randn(7, 3),
        "b": torch.randn(100).bfloat16(),
        "c": torch.tensor(1.0),
        "d": torch.zeros(0, 3),
        "e": torch.arange(5),
        "f": torch.randn(64, 64).t(),
    }


@pytest.mark.parametrize("size", [16, 100, 1000, 10**6])
def test_what_was_packed_is_received(tmp_path, size):
    named, digest, receiver, found = tensors(), WeightsDigest(), Receiver(), {}
    for number, bucket in enumerate(pack(named.items(), size, digest)):
        assert len(bucket.data) <= size
        file = tmp_path / str(number)
        file.write_bytes(memoryview(bucket.data))
        found |= receiver.take(str(file), bucket.table)
        file.unlink()
    assert found.keys() == named.keys()
    assert all(torch.equal(found[name], named[name]) and found[name].dtype == named[name].dtype for name in named)
    assert receiver.digest() == digest.hexdigest() == weights_digest(named.items())


def test_bytes_are_counted_in_part_by_part_while_they_are_copied(monkeypatch):
    monkeypatch.setattr(buckets, "CHUNK", 100)
    named, digest = tensors(), WeightsDigest()
    made = list(pack(named.items(), 1000, digest))
    assert len(made) > 3 and digest.hexdigest() == weights_digest(named.items())


def test_digest_is_over_names_shapes_and_bytes():
    named = [("b", torch.ones(2, 3)), ("a", torch.zeros(4, dtype=torch.bfloat16)), ("c", torch.tensor(1.0))]
    arrays = [(name, as_array(tensor)) for name, tensor in named]
    assert weights_digest(named) == weights_digest(reversed(arrays))
    assert weights_digest(named) != weights_digest([("b", torch.ones(3, 2)), *named[1:]])
    assert weights_digest(named) != weights_digest([("x", numpy.ones((2, 3), numpy.float32)), *arrays[1:]])
