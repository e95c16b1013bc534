"""The critic: what a value is of, and the model that says it, an engine of its own on the trainer's ranks.

It is asked for the value in front of each token after the prompt (`raylm.model.scores.causal`), and learns from its own loss by
its own optimizer, after each optimizer step of the policy and on the same minibatch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config, Refers, card_kind, resolve
from raylm.core.errors import ConfigError
from raylm.parallel.optimizers import AnyOptimizer
from raylm.parallel.optimizers.adamw import AdamW

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from raylm.parallel.engine import Engine
    from raylm.parallel.group.ranks import Ranks
    from raylm.rl.types import Sample
    from raylm.trainer.config import TrainerConfig

SHARED_BY = ("ddp", "fsdp")
NAME = "critic"
"""Of its engine, in step checkpoints too."""


class Critic(Config):
    """A model with a value head that learns what returns to expect (https://arxiv.org/abs/1707.06347)."""

    backbone: Literal["own", "shared"] = "own"
    """`own`: a model of its own. `shared`: a value head on the policy's last hidden states: no second model is held or run, and
    the policy's optimizer learns from both losses. On data ranks (ddp, fsdp), without an adapter."""
    coefficient: float = Field(default=1.0, gt=0, allow_inf_nan=False)
    """Of a shared backbone: weight of the value loss beside the policy's. Both loss scales are the job's own: look at
    `explained_variance` (on a copying task it came to 0.14, 0.42, 0.54 and 0.66 with 0.1, 0.5, 2 and 8)."""
    model: Annotated[str, Refers(("Checkpoint",), ("causal", "reward"))] | None = None
    """Weights to start from: a reward model, or a language model, which gets a new value head. None: those of the policy."""
    optimizer: AnyOptimizer = AdamW(lr=1e-5, weight_decay=0.0, schedule="constant", warmup=0.0)
    """Its own; the schedule is as long as the policy's."""
    warmup_iterations: int = Field(default=0, ge=0)
    """First iterations in which the critic learns alone: before it can tell good from bad it would teach the policy noise."""

    @model_validator(mode="after")
    def _fits(self) -> Critic:
        own = sorted({"model", "optimizer", "warmup_iterations"} & self.model_fields_set)
        if self.backbone == "shared" and own:
            raise ValueError(f"a critic that shares the policy's backbone has none of its own: drop {', '.join(own)}")
        if self.backbone == "own" and "coefficient" in self.model_fields_set:
            raise ValueError('`coefficient` weighs two losses of one model: backbone = "shared"')
        return self


def needs_critic(algorithm: Any) -> bool:
    """Whether an algorithm learns from values."""
    return "critic" in getattr(resolve(algorithm), "needs", ())


def shares(cfg: Any) -> bool:
    """Whether values come from the policy's own backbone."""
    return needs_critic(cfg.algorithm) and (cfg.critic or Critic()).backbone == "shared"


def check_shared(cfg: Any) -> None:
    """Raises ConfigError where a stage's layout has no place for a value head beside the vocabulary."""
    if not shares(cfg):
        return
    mesh = cfg.mesh
    if cfg.adapter is not None:
        why, remedy = "an adapter trains no layer beside the output head", "drop adapter"
    elif mesh.tensor * mesh.pipeline * mesh.context * mesh.expert > 1:
        why, remedy = "it lies whole on each rank that has the output head", "leave the mesh to data ranks"
    elif card_kind(cfg.strategy) not in SHARED_BY:
        why, remedy = f"it was proved with {' and '.join(SHARED_BY)} alone", 'strategy = {kind = "fsdp"}'
    else:
        return
    raise ConfigError(f"a critic on the policy's backbone: {why}", where="critic.backbone", next=f'{remedy}, or backbone = "own"')


def laid(cfg: TrainerConfig, card: Critic) -> TrainerConfig:
    """The stage as the critic is laid out by it: like the policy, but all of it is trained, by its own optimizer."""
    update = {"adapter": None, "freeze": [], "unfrozen_parameters": [], "ema": None, "balance": None}
    return cfg.model_copy(update={**update, "optimizer": card.optimizer})


def build_critic(ranks: Ranks, cfg: TrainerConfig, card: Critic, steps: int, path: str, look_at: Callable[[Any], None]) -> Engine:
    """The critic over the ranks of the stage. Every rank must call.

    Args:
        steps: length of the learning rate's schedule.
        path: the weights that it starts from.
        look_at: is shown the whole model on the rank that loads it.
    """
    # here, because the driver imports this file and needs no torch
    from raylm.model.leaks import check_causal, check_documents
    from raylm.model.load import load_model
    from raylm.model.value_head import with_value_head
    from raylm.parallel.assemble import assemble
    from raylm.parallel.group.hang import LOAD
    from raylm.parallel.start import begin

    def load() -> Any:
        ranks.heartbeat.mark(LOAD)
        model = with_value_head(load_model(path, "float32", plain=True, value_head=True), cfg.seed)
        if cfg.mesh.context > 1:
            check_documents(model, "mesh.context")
        check_causal(model)
        look_at(model)
        return model

    model, weight_loader = begin(load, ranks.rank, ranks.world, ranks.device)
    ranks.heartbeat.mark("start")
    engine = assemble(model.train(), laid(cfg, card), steps, rank=ranks.rank, world=ranks.world, weight_loader=weight_loader)
    if weight_loader:
        weight_loader.close()
    # values that are drawn anew in each pass would be no measure of an answer
    return engine.drop_nothing()


def check_critic(card: Critic | None, algorithm: Any, iterations: int) -> None:
    """Raises ConfigError where a stage has a critic that nothing asks, or one that would learn alone to the end."""
    if card is None:
        return
    if not needs_critic(algorithm):
        raise ConfigError("the algorithm asks for no critic", where="critic", next="drop `critic`, or take algorithm ppo")
    if card.warmup_iterations >= iterations:
        raise ConfigError(
            f"in all of {iterations} iterations the critic would learn alone",
            where="critic.warmup_iterations",
            next="fewer of them, or more iterations",
        )


def explained_variance(samples: Sequence[Sample]) -> float | None:
    """Which share of the returns' variance the values account for: 1 - Var(returns - values) / Var(returns), over the tokens that
    are learned from; None where returns do not vary."""
    import numpy as np

    known = [sample for sample in samples if sample.values is not None and sample.returns is not None]
    if not known:
        return None
    counts = np.concatenate([np.asarray(sample.mask_or_ones, dtype=bool) for sample in known])
    values, returns = (
        np.concatenate([np.asarray(getattr(sample, name), dtype=np.float64) for sample in known])[counts]
        for name in ("values", "returns")
    )
    spread = float(returns.var()) if len(returns) else 0.0
    return 1.0 - float((returns - values).var()) / spread if spread > 0 else None
