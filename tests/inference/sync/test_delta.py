"""The card of changes; what it sends is tested beside the sender."""

from __future__ import annotations

from raylm.inference.config import GeneratorSpec


def test_it_sends_what_changed():
    sender = GeneratorSpec(sync={"kind": "delta", "bucket_mb": 8}).sync.sender()  # type: ignore[arg-type]
    assert (sender._bucket_bytes, sender._only) == (8 << 20, "values")
