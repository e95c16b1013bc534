"""Assembles the engine of a model: pipeline split, tensor plan, experts, compile, strategy.

fused kernels -> pipeline split -> tensor plan -> experts -> float8
-> activation checkpointing -> compile -> strategy (ddp, fsdp, deepspeed)
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.core.config import card_kind, resolve
from raylm.core.errors import ConfigError
from raylm.model.attention import install
from raylm.model.head import check_backend
from raylm.parallel.activation_checkpointing import checkpoint_activations
from raylm.parallel.blocks import blocks, separate_experts
from raylm.parallel.compiled import compile_blocks
from raylm.parallel.config import ParallelConfig
from raylm.parallel.engine import Engine, Recipe
from raylm.parallel.kernels import fuse_kernels
from raylm.parallel.optimizers.rates import with_rates

if TYPE_CHECKING:
    from raylm.parallel.start import WeightLoader


def assemble(
    model: Any,
    cfg: ParallelConfig,
    steps: int,
    *,
    rank: int = 0,
    world: int = 1,
    frozen: bool = False,
    weight_loader: WeightLoader | None = None,
) -> Engine:
    """The engine over `model`, with the same weights on every rank; with `weight_loader` it has no memory yet.

    Args:
        steps: length of the schedule.
        frozen: only `forward` and `measure` will be asked (a reference, a teacher): no optimizer is made.
        weight_loader: of `raylm.parallel.start.Start`, for a model that is its skeleton.

    Raises:
        ConfigError: the layout does not fit this number of ranks or this model.
    """
    device = weight_loader.device if weight_loader else next(model.parameters()).device
    grid = cfg.mesh.build(rank, world, device.type)
    check_backend(cfg.cross_entropy, device.type)
    recipe = Recipe(
        None if frozen else with_rates(resolve(cfg.optimizer), model, getattr(cfg, "adapter", None)),
        steps,
        cfg.dtype,
        cfg.cross_entropy,
        ema=cfg.ema,
        weight_loader=weight_loader,
    )
    if cfg.kernels == "liger" or (cfg.kernels == "auto" and not cfg.compile and cfg.mesh.tensor == 1):
        fuse_kernels(model, cfg.kernels, device.type)
    install(model, cfg.attention)
    line = None
    if frozen:
        model.eval().requires_grad_(False)
    if grid.mesh.pipeline > 1:
        from raylm.parallel.pipeline.stages import PipelineStages

        line = PipelineStages(model, grid)
        _check_trained(model, device, frozen)
    if grid.mesh.tensor > 1:
        from raylm.parallel.tensor.shard import shard_matrices

        shard_matrices(model, grid)
    if grid.mesh.expert > 1:
        from raylm.parallel.expert import spread_experts

        spread_experts(model, grid)
    parts = blocks(model)
    if (cfg.activation_checkpointing != "none" or cfg.compile) and not parts:
        raise ConfigError(
            f"{type(model).__name__} does not say what its blocks are", next="drop `activation_checkpointing` and `compile`"
        )
    if cfg.dtype == "float8":
        from raylm.parallel.precision import check_float8, narrow_products

        check_float8(device)
        narrow_products(parts)
    if cfg.activation_checkpointing != "none" and not frozen:
        checkpoint_activations(parts, cfg.activation_checkpointing)
    if cfg.compile:
        compile_blocks(parts, device.type)
    strategy = resolve(cfg.strategy)
    if grid.averaged > 1 and not frozen:
        _check_experts(model, strategy, plain=grid.mesh.tensor == grid.mesh.pipeline == 1)
    if weight_loader and not getattr(strategy, "cuts_empty", False):
        weight_loader(model)
    if line is None:
        return strategy.wrap(model, grid, recipe)
    if not hasattr(strategy, "parallelize"):
        raise ConfigError(
            f"strategy {card_kind(strategy)!r} does not take pipeline stages", next='strategy.kind = "fsdp" or "ddp"'
        )
    if getattr(strategy, "offload", False):
        raise ConfigError("a pipeline keeps its weights on devices while micro batches pass", next="drop strategy.offload")
    from raylm.parallel.pipeline.engine import PipelineEngine

    return PipelineEngine(strategy.parallelize(model, grid, recipe), model, grid, recipe, line)


def _check_trained(model: Any, device: Any, frozen: bool) -> None:
    """Raises ConfigError, on every rank, where all that one of them holds is frozen: its optimizer would have nothing."""
    import torch

    trains = torch.tensor(float(frozen or any(p.requires_grad for p in model.parameters())), device=device)
    torch.distributed.all_reduce(trains, op=torch.distributed.ReduceOp.MIN)
    if not trains:
        raise ConfigError(
            "a pipeline rank would hold frozen weights alone", where="freeze", next="freeze less, or lower mesh.pipeline"
        )


def _check_experts(model: Any, strategy: Any, plain: bool) -> None:
    """Raises ConfigError where ranks would wait for gradients that some have not: of experts that no token was sent to."""
    if plain and getattr(strategy, "passes_over_unmet", False):
        return
    if met := separate_experts(model):
        raise ConfigError(
            f"experts are modules of their own here ({met}): those that one rank's tokens do not meet have no gradient there, "
            "and this layout waits for all",
            where=type(model).__name__,
            next='strategy = {kind = "ddp"} without mesh.tensor and mesh.pipeline, or an adapter beside other layers',
        )
