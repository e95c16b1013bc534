"""What every strategy has: it wraps a model into an engine, and says what of the model lies on a rank and what ranks send."""

from __future__ import annotations

from typing import TYPE_CHECKING, ClassVar, NamedTuple

from raylm.core.config import Config

if TYPE_CHECKING:
    import torch

    from raylm.parallel.engine import Engine, Recipe
    from raylm.parallel.mesh import Grid


class ModelSize(NamedTuple):
    """A model as tensor, pipeline and expert ranks leave it on the fullest rank, before data ranks share it."""

    blocks: float
    """Weights of its transformer blocks."""
    ends: float
    """Weights of embedding and output layer."""
    layers: float
    trained: float
    """Numbers that are trained: all weights, or those of an adapter."""
    frozen_bytes: float
    """Bytes of weights that are not: beside an adapter, and of a reference."""
    optimizer_bytes: float
    """Moments, and a moving average where one is kept."""
    width: int
    """Bytes of a number in compute, 2 or 4."""
    data: int
    """Data ranks, replicas included."""
    context: int
    replicas: int
    pipeline: int
    num_micros: int
    """Forward passes of a step and rank."""
    stored: float = 0.0
    """Bytes of a weight of the blocks where it is stored in fewer bits than it computes in; else 0."""

    @property
    def gather_bytes(self) -> float:
        """Bytes of a block's weight on its way between ranks."""
        return self.stored or self.width

    @property
    def ranks(self) -> int:
        """Ranks among which gradients are averaged."""
        return self.data * self.context

    @property
    def block(self) -> float:
        """Weights of one block."""
        return self.blocks / max(self.layers, 1)

    @property
    def casts(self) -> float:
        """Bytes of the narrow copies of trained weights that autocast keeps for a pass."""
        return 2.0 * self.trained if self.width == 2 else 0.0

    def gathered(self, reshard: bool) -> float:
        """Bytes of weights that were gathered from other ranks, and of gradients on their way to them."""
        if self.ranks == 1:
            return self.casts
        whole = 2 * self.block if reshard else self.blocks
        # one block's gradients travel in float32 while the next one's come
        return self.gather_bytes * whole + self.width * self.ends + 4.0 * min(2 * self.block, self.trained)


class RankMemory(NamedTuple):
    """Bytes on one rank."""

    weights: float
    gradients: float
    optimizer: float
    gathered: float
    """Weights gathered from other ranks, casts, and buckets in which gradients travel."""


class Traffic(NamedTuple):
    """Bytes that one rank sends and receives in a step, were it alone with an endless number of others."""

    gathers: float
    """Weights, inside a replica."""
    gradients: float


class Strategy(Config):
    """How weights, gradients and optimizer lie over the data ranks. What a strategy does not say of itself is that of one which
    holds everything on every rank."""

    passes_over_unmet: ClassVar[bool] = False
    """Whether a weight that no rank's tokens met keeps what it is, and one that some met gets the mean."""
    cuts_empty: ClassVar[bool] = False
    """Whether it takes parameters without memory and fills them once they are cut."""

    def wrap(self, model: torch.nn.Module, grid: Grid, recipe: Recipe) -> Engine:
        """An engine over `model`, which must lie on its device and be the same on every rank."""
        raise NotImplementedError

    def memory(self, size: ModelSize) -> RankMemory:
        """What lies on the fullest rank; `raylm plan` adds activations and the loss."""
        # gradients are added up in buckets of their own, which come and go with them
        buckets = 2 if size.ranks > 1 else 1
        weights = size.frozen_bytes + 4.0 * size.trained
        return RankMemory(weights, 4.0 * buckets * size.trained, size.optimizer_bytes, size.casts)

    def traffic(self, size: ModelSize) -> Traffic:
        """What data ranks exchange; an average of gradients is a sum and a gather."""
        return Traffic(0.0, 2 * 4.0 * size.trained)
