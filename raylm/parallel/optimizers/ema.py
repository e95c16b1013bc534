"""An exponential moving average of the trained weights, sharded as they are."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any

import torch


class Ema:
    """average = decay * average + (1 - decay) * weight, after every update; starts as the weights themselves.

    Args:
        named: trainable parameters by Hugging Face's names.
        decay: 0.999 averages over about a thousand steps.
    """

    def __init__(self, named: Iterable[tuple[str, Any]], decay: float) -> None:
        self._weights = dict(named)
        self._decay = decay
        self._averages = {name: weight.detach().clone() for name, weight in self._weights.items()}

    @torch.no_grad()
    def update(self) -> None:
        """Move every average towards its weight."""
        for name, weight in self._weights.items():
            self._averages[name].lerp_(weight.detach(), 1.0 - self._decay)

    def state(self) -> dict[str, Any]:
        """The averages by name: shards where weights are shards."""
        return dict(self._averages)

    @torch.no_grad()
    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned."""
        for name, average in state.items():
            self._averages[name].copy_(average)

    @contextmanager
    def swapped(self) -> Iterator[None]:
        """Inside, the weights are the averages."""
        self._swap()
        try:
            yield
        finally:
            self._swap()

    @torch.no_grad()
    def _swap(self) -> None:
        for name, weight in self._weights.items():
            held = weight.detach().clone()
            weight.detach().copy_(self._averages[name])
            self._averages[name] = held
