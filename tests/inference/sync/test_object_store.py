"""The card of whole weights in buckets; what it sends is tested beside the sender."""

from __future__ import annotations

import pytest
from pydantic import ValidationError

from raylm.inference.config import GeneratorSpec


def test_it_is_what_a_job_gets_that_says_nothing():
    sync = GeneratorSpec().sync
    assert (sync.kind, sync.bucket_mb, sync.staged_mb) == ("object_store", 64, 1024)
    sender = sync.sender()
    assert (sender._bucket_bytes, sender._aside_bytes, sender._only) == (64 << 20, 1 << 30, "")


def test_an_adapter_goes_alone():
    assert GeneratorSpec(sync={"kind": "object_store", "adapter": True}).sync.sender()._only == "tensors"  # type: ignore[arg-type]


def test_an_unknown_one_is_refused():
    with pytest.raises(ValidationError, match="gloo"):
        GeneratorSpec(sync={"kind": "gloo"})  # type: ignore[arg-type]
