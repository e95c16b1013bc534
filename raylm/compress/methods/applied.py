"""What a method leaves."""

from __future__ import annotations

from typing import Any, NamedTuple


def unseen(names: list[str]) -> dict[str, Any]:
    """Fact on layers that no calibration token came to (an expert that nobody visited): nothing is known of what enters them, so
    they are rounded to nearest. {} where there are none."""
    if not names:
        return {}
    print(f"  {len(names)} layers saw no calibration token and are rounded to nearest: {', '.join(names[:3])}", flush=True)
    return {"rounded_to_nearest": sorted(names)}


class Applied(NamedTuple):
    """A method's work on a model."""

    compressor: Any = None
    """Of compressed-tensors, for rounded weights: its `update_config` marks a folder."""
    facts: dict[str, Any] = {}
    """What the checkpoint's manifest shall say of it."""
    metrics: dict[str, float] = {}
    model: Any = None
    """The model, where it is another object than the one that was given (fewer layers, other widths)."""
