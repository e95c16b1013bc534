"""Learning rate schedules, and which parameters have weight decay."""

from __future__ import annotations

import math
from collections.abc import Iterable
from fnmatch import fnmatch
from typing import Annotated, Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.model.name_patterns import fits
from raylm.parallel.optimizers.clip import COPY


class Scheduled(Config):
    """What every optimizer has: learning rate, its schedule, decay, clipping, state. Matrices decay, vectors do not."""

    lr: float = Field(default=3e-4, gt=0)
    """Peak learning rate."""
    weight_decay: float = Field(default=0.1, ge=0)
    """Decoupled decay of matrices; vectors (norms, biases) do not decay."""
    clip: float = Field(default=1.0, gt=0)
    """Largest allowed global gradient norm."""
    warmup: float = Field(default=0.02, ge=0)
    """Linear warm-up: below 1 a share of all steps, from 1 on a number of steps."""
    schedule: Literal["constant", "linear", "cosine", "wsd"] = "cosine"
    """Decay after warm-up; `wsd` holds the peak and falls linearly over the last `decay`, so that a run can be made longer."""
    floor: float = Field(default=0.1, ge=0, le=1)
    """Learning rate at the last step as a share of the peak."""
    decay: float = Field(default=0.2, gt=0, le=1)
    """Share of the steps after warm-up over which `wsd` falls."""
    no_decay: list[str] = []
    """Patterns of names (`*embed*`) of matrices that do not decay either."""
    lr_scale: dict[str, Annotated[float, Field(gt=0)]] = {}
    """Factors of the learning rate of some parameters, by parts of names or a regex: {"embed_tokens" = 0.1, "layers.0-11" = 0.5}.
    Those of all patterns that fit are multiplied. To train a part not at all: `freeze`."""
    layerwise_lr_decay: float = Field(default=1.0, gt=0, le=1)
    """Factor of each block's learning rate over that of the block above it; embeddings come below the first block."""

    @property
    def bytes_per_weight(self) -> float:
        """Bytes of state for a number that is trained: two moments in float32, unless a card says otherwise."""
        return 8.0

    @property
    def bytes_per_end(self) -> float:
        """The same for a number of embedding or output layer."""
        return self.bytes_per_weight

    @property
    def elementwise(self) -> bool:
        """Whether it updates each number by itself, so that it may be handed any piece of a tensor as a vector (ZeRO)."""
        return False

    def make(self, model: Any) -> Any:
        """A `torch.optim.Optimizer` over the trainable parameters of `model`."""
        raise NotImplementedError

    def lr_at(self, step: int, steps: int) -> float:
        """Learning rate of update `step` (0 is the first) of `steps`."""
        warmup = self.warmup if self.warmup >= 1 else self.warmup * steps
        if step + 1 <= warmup:
            return self.lr * (step + 1) / math.ceil(warmup)
        progress = (step - warmup) / max(steps - 1 - warmup, 1)
        return self.lr * (self.floor + (1 - self.floor) * self._shape(min(max(progress, 0.0), 1.0)))

    def groups(self, model: Any) -> list[dict[str, Any]]:
        """Trainable parameters of `model` as parameter groups: those that decay, those that do not."""
        return self.split((name, p) for name, p in model.named_parameters() if p.requires_grad)

    def split(self, named: Iterable[tuple[str, Any]]) -> list[dict[str, Any]]:
        """Named parameters as parameter groups, two of each factor of the learning rate; `weight_decay` of each is set."""
        groups: dict[float, list[dict[str, Any]]] = {}
        for name, parameter in named:
            # a copy that another pipeline stage has must decay as the original does
            name = getattr(parameter, COPY, name)
            spared = parameter.dim() < 2 or any(fnmatch(name, pattern) for pattern in self.no_decay)
            scale = math.prod(factor for pattern, factor in self.lr_scale.items() if fits(pattern, name))
            own = {} if scale == 1 else {"lr_scale": scale}
            two = [{"params": [], "weight_decay": decay, **own} for decay in (self.weight_decay, 0.0)]
            groups.setdefault(scale, two)[spared]["params"].append(parameter)
        return [group for two in groups.values() for group in two if group["params"]]

    def _shape(self, progress: float) -> float:
        """From 1 at the end of warm-up to 0 at the last step."""
        if self.schedule == "constant":
            return 1.0
        if self.schedule == "linear":
            return 1.0 - progress
        if self.schedule == "cosine":
            return 0.5 * (1.0 + math.cos(math.pi * progress))
        return min(1.0, (1.0 - progress) / self.decay)
