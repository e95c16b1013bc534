"""What carries out an update needs of the rest of an endpoint: of Control, and of somebody who asks replicas."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Protocol

from raylm.serve.directory import Address, Orders, Replica, WeightsOrder
from raylm.serve.updates.history import Proof
from raylm.serve.updates.rollout import Rollout, Told


class Desk(Protocol):
    """What Control lends."""

    def rows(self, model: str) -> list[Replica]:
        """Replicas of a model, in whatever state."""
        ...

    def lead(self, rollout: Rollout | None) -> None:
        """Gateways route by this from now on."""
        ...

    def ordered(self, model: str) -> Orders:
        """How replicas of the model should be."""
        ...

    async def order_weights(self, model: str, weights: WeightsOrder | None) -> None:
        """How replicas of the model shall be, also those that start later; kept in a file."""
        ...

    def told(self, number: str) -> Told:
        """What gateways counted since the update `number` began."""
        ...

    async def decided(self, entry: dict[str, Any]) -> None:
        """Keep why something was done."""
        ...


Prove = Callable[[Address, Proof], None]
"""Raises StageError where a replica does not say what its checkpoint says. Blocks."""
