"""Takes a `stage = "train"` table, leaves what may be asked of training."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raylm.core.config import Makes, Refers, ref_or_table
from raylm.core.variants import TRAINABLE
from raylm.data.mixture import AnyRows
from raylm.model.adapter import Lora
from raylm.model.balance import Balance
from raylm.model.shapes import AnyShape
from raylm.parallel.config import ParallelConfig
from raylm.train.objectives import AnyObjective
from raylm.train.objectives.next_token import NextToken
from raylm.trainer.spikes import Spikes
from raylm.trainer.watch.watch import Watch

TrainableRef = Annotated[str, Refers(("Checkpoint",), TRAINABLE)]
AnyModel = Annotated[Annotated[TrainableRef, Tag("ref")] | Annotated[AnyShape, Tag("table")], Discriminator(ref_or_table)]


class Train(ParallelConfig):
    """rows + weights -> Checkpoint: pretraining, fine-tuning and preference alignment by one loop."""

    placement = ParallelConfig.placement | {"max_skipped", "watch", "spikes", "keep_best", "keep_every", "max_failed_saves"}
    figures = (
        "held_out_loss",
        "held_out_bits_per_byte",
        "held_out_accuracy",
        "loss",
        "tokens_per_s",
        "goodput",
        "skipped_steps",
        "restarts",
        "failed_saves",
    )

    stage: Literal["train"]
    rows: AnyRows
    """What is learned from: an artifact of tokenize, or a mixture of several: {kind = "mixture", parts = [...]}."""
    document_mask: bool = False
    """In packed rows a token sees its own document alone, and its position counts from where that begins."""
    model: AnyModel
    """Weights to start from (a stage, a folder, a hub name), or a table with the shape of a new model."""
    adapter: Lora | None = None
    """Train small matrices beside frozen weights; the checkpoint has them folded in, and apart in `adapter/`."""
    objective: AnyObjective = NextToken()
    """The loss."""
    balance: Balance | None = None
    """How experts are kept evenly busy, in models that have them."""
    batch: int | None = Field(default=None, gt=0)
    """Global batch in rows: the same for any number of workers."""
    batch_tokens: int | None = Field(default=None, gt=0)
    """Global batch in tokens, in place of `batch`: as many rows as hold them on average."""
    micro_batch: int | Literal["auto"] = 8
    """Rows per forward pass and rank, the rest of the batch is accumulated; `auto` measures how many the memory holds."""
    steps: int | None = Field(default=None, gt=0)
    """Number of optimizer steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the rows (of a mixture: as many draws as all parts have rows), in place of `steps`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on, in place of `steps`."""
    seed: int = 0
    """Seed of new weights, of the row order and of dropout."""
    max_skipped: int = 0
    """Steps with a NaN or infinite gradient that are skipped before training stops; not read where there are `spikes`."""
    spikes: Spikes | None = None
    """What is done about losses and gradients far above the usual, before they move weights."""
    watch: Watch = Watch()
    """Where metrics go, what is reported, what is looked at operation by operation."""
    held_out_rows: int = 256
    """Held-out rows on which the loss is measured before and after; 0 measures none."""
    save_every: int = Field(default=50, gt=0)
    """Steps between step checkpoints."""
    keep: int = Field(default=2, gt=0)
    """Number of newest step checkpoints that are kept."""
    evaluate_every: int | None = Field(default=None, gt=0)
    """Steps between measurements of the held-out rows; without it they are measured before and after."""
    keep_best: int = Field(default=0, ge=0)
    """Number of step checkpoints of lowest held-out loss that are kept too; a step that is among them is saved at once."""
    keep_every: int | None = Field(default=None, gt=0)
    """Steps between step checkpoints that are kept for good: they stay in the artifact's `steps/`."""
    max_failed_saves: int = Field(default=3, gt=0)
    """Step checkpoints in a row that could not be written before training stops; a full disk stops it at once."""
    export: Literal["last", "best"] = "last"
    """Weights of the artifact: those of the last step, or of the step of lowest held-out loss."""

    @model_validator(mode="after")
    def _one_length(self) -> Train:
        if sum(said is not None for said in (self.steps, self.epochs, self.tokens)) != 1:
            raise ValueError("say one of `steps`, `epochs`, `tokens`")
        if (self.batch is None) == (self.batch_tokens is None):
            raise ValueError("say either `batch` (rows) or `batch_tokens`")
        if (self.keep_best or self.export == "best") and not (self.evaluate_every and self.held_out_rows):
            raise ValueError("the best step is known by its held-out loss: say `evaluate_every` and `held_out_rows`")
        if isinstance(self.micro_batch, int) and self.micro_batch < 1:
            raise ValueError("micro_batch is at least 1, or 'auto'")
        return self

    def makes(self) -> Makes:
        # another one's objective says so once it is resolved
        return Makes("Checkpoint", getattr(self.objective, "makes", "") or getattr(self.objective, "model", ""))

    def narrowed(self) -> dict[str, Refers]:
        objective: Any = self.objective
        model, by = getattr(objective, "model", ""), f"objective {objective.kind}"
        return {"rows": Refers(getattr(objective, "rows", ()), by=by), "model": Refers((), (model,) if model else (), by)}
