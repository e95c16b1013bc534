"""The engine of a stage on one rank: weights loaded on rank 0, an adapter beside them, a frozen reference where it is needed."""

from __future__ import annotations

import copy
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError
from raylm.model.adapters.checks import check_layout
from raylm.model.checkpoint import num_parameters
from raylm.model.flops import flops_per_token
from raylm.model.freezing import freeze_parts
from raylm.model.load import freeze_unread, load_model
from raylm.model.model_spec import FAMILIES
from raylm.parallel.assemble import assemble
from raylm.parallel.group.hang import LOAD
from raylm.trainer.forecast.devices import device_of

if TYPE_CHECKING:
    import torch

    from raylm.parallel.engine import Engine
    from raylm.parallel.group.ranks import Ranks
    from raylm.trainer.config import TrainerConfig


OTHER_REFERENCE = 'reference = "stored" (train stages), or `raylm merge` the adapter and name what comes of it as `model`'
"""What else can be compared with."""


class Built(NamedTuple):
    """A model across its ranks."""

    engine: Engine
    reference: Engine | None
    """The frozen start; None where nothing needs it, or where it is the model without its adapter."""
    parameters: int
    config: Any
    """The model's config, before the model was laid out."""


def build(
    ranks: Ranks, cfg: TrainerConfig, steps: int, load: Callable[[], torch.nn.Module], needs_reference: bool = False
) -> Built:
    """Build the model on rank 0 and lay it out over all ranks. Every rank must call.

    Args:
        steps: length of the learning rate's schedule.
        load: makes the model before its first step; called on rank 0 alone.

    Raises:
        RaylmError: what `load` raised, on every rank.
    """
    # here, because the driver imports this file and needs no torch
    from raylm.parallel.start import begin

    def make() -> torch.nn.Module:
        ranks.heartbeat.mark(LOAD)
        base = load()
        if not cfg.adapter:
            freeze_unread(base)
            freeze_parts(base, cfg.freeze, cfg.unfrozen_parameters)
            return base
        if needs_reference and (why := cfg.adapter.no_live_reference()):
            raise ConfigError(why, where="adapter", next=OTHER_REFERENCE)
        made = cfg.adapter.attach(base, cfg.seed)
        if in_words := getattr(cfg.adapter, "in_words", None):
            ranks.say(in_words(made))
        freeze_unread(base)
        check_layout(made.adapted, cfg.mesh)
        return made

    model, weight_loader = begin(make, ranks.rank, ranks.world, ranks.device)
    ranks.heartbeat.mark("start")
    parameters, config = num_parameters(model), model.config
    reference, place = None, {"rank": ranks.rank, "world": ranks.world, "weight_loader": weight_loader}
    if needs_reference and not cfg.adapter:
        reference = assemble(copy.deepcopy(model), cfg, steps, frozen=True, **place)
    engine = assemble(model.train(), cfg, steps, **place)
    if weight_loader:
        weight_loader.close()
    return Built(engine, reference, parameters, config)


def load_start(cfg: TrainerConfig, path: str, value_head: bool = False) -> torch.nn.Module:
    """Weights to start from: frozen ones, beside an adapter, in the dtype of compute, those that are trained in float32.

    Args:
        value_head: a reward model will do too.
    """
    if cfg.adapter:
        return cfg.adapter.load_base(path, "float32" if cfg.dtype == "float32" else "bfloat16", value_head)
    return load_model(path, "float32", plain=True, value_head=value_head)


def flops_of(
    cfg: TrainerConfig, config: dict[str, Any], length: int | None, world: int, num_passes: int = 1
) -> tuple[float | None, float | None]:
    """FLOPs of a token and the peak of all ranks, for utilisation: where the model's family and the device are known.

    Args:
        num_passes: forward passes of a step over its batch, the one that learns among them.
    """
    if cfg.workers.device is None or config.get("model_type") not in FAMILIES or not length:
        return None, None
    # forward, gradient of the input, gradient of the weight: a frozen weight has no third, other passes have the first alone
    passes = 2 - (cfg.adapter is not None) + num_passes
    return flops_per_token(config, length) * passes / 3, device_of(cfg.workers.device).bfloat16 * 1e12 * world
