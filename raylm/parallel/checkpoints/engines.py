"""Several engines on the same ranks whose state is one step checkpoint: a policy, and a critic beside it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from raylm.parallel.engine import Engine


class Engines:
    """What a `Saver` asks of an engine, over all of them.

    Args:
        first: the one that counts the steps, and whose tensors keep the names that they have alone.
        others: by the name under which their tensors stand.
    """

    def __init__(self, first: Engine, others: Mapping[str, Engine]) -> None:
        self._first, self._others = first, dict(others)

    @property
    def rank(self) -> int:
        return self._first.rank

    @property
    def world(self) -> int:
        return self._first.world

    @property
    def device(self) -> torch.device:
        return self._first.device

    @property
    def done(self) -> int:
        return self._first.done

    @done.setter
    def done(self, steps: int) -> None:
        self._first.done = steps

    def tick(self) -> None:
        """See `Engine.tick`."""
        self._first.tick()

    def state(self) -> dict[str, Any]:
        """Of all, see `Engine.state`."""
        return {**self._first.state(), **{name: engine.state() for name, engine in self._others.items()}}

    def restore(self, state: dict[str, Any]) -> None:
        """Of all, see `Engine.restore`."""
        for name, engine in self._others.items():
            engine.restore(state[name])
        self._first.restore({key: value for key, value in state.items() if key not in self._others})
