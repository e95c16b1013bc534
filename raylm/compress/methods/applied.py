"""What a method leaves."""

from __future__ import annotations

from typing import Any, NamedTuple


class Applied(NamedTuple):
    """A method's work on a model."""

    compressor: Any = None
    """Of compressed-tensors, for rounded weights: its `update_config` marks a folder."""
    facts: dict[str, Any] = {}
    """What the checkpoint's manifest shall say of it."""
    metrics: dict[str, float] = {}
    model: Any = None
    """The model, where it is another object than the one that was given (fewer layers, other widths)."""
