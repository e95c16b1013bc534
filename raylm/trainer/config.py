"""What may be asked of every stage that updates weights."""

from __future__ import annotations

from typing import TYPE_CHECKING, Self

from pydantic import Field, model_validator

from raylm.model.adapters import AnyAdapter
from raylm.model.balance import Balance
from raylm.parallel.config import ParallelConfig
from raylm.trainer.check_export import CheckExport
from raylm.trainer.spikes import Spikes
from raylm.trainer.watch.watch import Watch

if TYPE_CHECKING:
    from raylm.parallel.checkpoints.steps import Keeping


class TrainerConfig(ParallelConfig):
    """A stage that updates weights: `train` and `rl`."""

    placement = ParallelConfig.placement | {
        "max_skipped", "watch", "spikes", "save_every", "keep", "keep_every", "max_failed_saves", "check_export",
    }  # fmt: skip

    known_as = {
        "learning_rate": "optimizer = {lr = ...}",
        "lr": "optimizer = {lr = ...}",
        "weight_decay": "optimizer = {weight_decay = ...}",
        "warmup_ratio": "optimizer = {warmup = ...}, a share of the steps",
        "lr_scheduler_type": "optimizer = {schedule = ...}",
        "max_grad_norm": "optimizer = {clip = ...}",
        "save_steps": "save_every",
        "save_total_limit": "keep",
        "bf16": 'dtype = "bfloat16"',
        "gradient_checkpointing": 'activation_checkpointing = "full"',
        "deepspeed": 'strategy = {kind = "deepspeed", zero = ...}',
        "fsdp": 'strategy = {kind = "fsdp"}',
        "lora_r": 'adapter = {kind = "lora", rank = ...}',
        "lora_alpha": 'adapter = {kind = "lora", alpha = ...}',
        "load_in_4bit": 'adapter = {kind = "qlora"}',
        "peft_config": 'adapter = {kind = "lora"}',
        "report_to": "watch = {sinks = [...]}",
    }

    adapter: AnyAdapter | None = None
    """Train small matrices beside frozen weights; the checkpoint has them folded in, and apart in `adapter/`."""
    freeze: list[str] = []
    """Parts of the model that are not trained: `embed_tokens`, `layers.0-11`, `layers.*.mlp`, or a regex over names."""
    unfrozen_parameters: list[str] = []
    """The parts that are trained alone, named in the same way; all that it does not name is frozen."""
    balance: Balance | None = None
    """How experts are kept evenly busy, in models that have them."""
    seed: int = 0
    """Seed of new weights, of the order of rows or prompts, of dropout and of every draw."""
    max_skipped: int | None = Field(default=0, ge=0)
    """Steps with a NaN or infinite gradient that are skipped before training stops; not read where there are `spikes`."""
    spikes: Spikes | None = None
    """What is done about losses and gradients far above the usual, before they move weights."""
    watch: Watch = Watch()
    """Where metrics go, what is reported, what is looked at operation by operation."""
    save_every: int = Field(default=50, gt=0)
    """Steps (of RL: iterations) between step checkpoints."""
    keep: int = Field(default=2, gt=0)
    """Number of newest step checkpoints that are kept."""
    keep_every: int | None = Field(default=None, gt=0)
    """Steps (of RL: iterations) between step checkpoints that are kept for good: they stay in the artifact's `steps/`."""
    max_failed_saves: int = Field(default=3, gt=0)
    """Step checkpoints in a row that could not be written before training stops; a full disk stops it at once."""

    check_export: CheckExport = CheckExport()
    """What is compared before the written checkpoint counts as made."""

    @model_validator(mode="after")
    def _one_way_to_freeze(self) -> Self:
        if (self.freeze or self.unfrozen_parameters) and self.adapter:
            raise ValueError("beside an adapter all weights are frozen: drop `freeze` and `unfrozen_parameters`")
        return self

    def keeping(self) -> Keeping:
        """Which step checkpoints of a run stay."""
        from raylm.parallel.checkpoints.steps import Keeping

        return Keeping(self.keep, 0, self.keep_every)
