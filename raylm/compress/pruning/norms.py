"""Norms over hidden states whose number of channels changes: RMSNorm and its kin, which divide by a root mean square."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Iterator
from typing import Any

from raylm.core.errors import ConfigError


def check_norms(norms: dict[str, Any], family: str) -> None:
    """Raises ConfigError where one is no RMSNorm: LayerNorm takes the mean of all channels away, so none can be cut out."""
    import torch

    for name, norm in norms.items():
        probe = torch.linspace(-1.0, 1.0, norm.weight.shape[0], dtype=torch.float32).to(norm.weight)
        apart, flat = norm(probe), norm(torch.ones_like(probe))
        if getattr(norm, "bias", None) is not None or not bool(flat.abs().max() > 1e-3 * apart.abs().max()):
            raise ConfigError(
                f"{name} of {family} takes the mean of all channels away, so that none can be cut out alone",
                next="prune `ffn` or `heads`, or take the method depth",
            )


def scale(norm: Any, factor: float) -> None:
    """Let a norm give `factor` times what it gives: by its weights, whether it multiplies by them or by 1 + them."""
    import torch

    bare = copy.deepcopy(norm)
    bare.weight.data.zero_()
    at_zero = bare(torch.ones_like(bare.weight.data)).abs().max()
    offset = 0.0 if float(at_zero) == 0.0 else 1.0
    norm.weight.data.copy_((norm.weight.data.float() + offset) * factor - offset)


@contextlib.contextmanager
def loosened(norms: dict[str, Any], factor: float) -> Iterator[None]:
    """Multiply the number by which norms keep from dividing by zero; it was meant beside a mean over more channels."""
    held = [
        (norm, name, value)
        for norm in norms.values()
        for name, value in vars(norm).items()
        if isinstance(value, float) and "eps" in name
    ]
    try:
        for norm, name, value in held:
            setattr(norm, name, value * factor)
        yield
    finally:
        for norm, name, value in held:
            setattr(norm, name, value)
