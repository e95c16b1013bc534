"""Takes a model on every rank and a layout, leaves the engine that trains it.

pipeline split -> tensor plan -> experts -> recompute -> compile -> strategy (ddp, fsdp, deepspeed)
"""

from __future__ import annotations

from typing import Any

from raylm.core.config import resolve
from raylm.model.attention import install
from raylm.parallel.engine import Engine, Recipe
from raylm.parallel.layout import Learning


def assemble(model: Any, cfg: Learning, steps: int, *, rank: int = 0, world: int = 1, frozen: bool = False) -> Engine:
    """The engine over `model`, which lies on its device with the same weights on every rank.

    Args:
        steps: length of the schedule.
        frozen: only `forward` and `measure` will be asked (a reference, a teacher): no optimizer is made.

    Raises:
        ConfigError: the layout does not fit this number of ranks or this model.
    """
    device = next(model.parameters()).device
    grid = cfg.mesh.lay(rank, world, device.type)
    recipe = Recipe(None if frozen else cfg.optimizer, steps, cfg.dtype)
    install(model)
    if frozen:
        model.eval().requires_grad_(False)
    return resolve(cfg.strategy).wrap(model, grid, recipe)
