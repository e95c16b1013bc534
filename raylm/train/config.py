"""Config of the `train` stage."""

from __future__ import annotations

from typing import TYPE_CHECKING, Annotated, Any, Literal

from pydantic import Discriminator, Field, Tag, model_validator

from raylm.core.config import Makes, Refers, Role, WorkerSpec, card_kind, ref_or_table
from raylm.core.variants import TRAINABLE
from raylm.data.mixture import AnyRows
from raylm.inference.config import GeneratorSpec
from raylm.model.new_tokens import NewTokens
from raylm.model.shapes import AnyShape
from raylm.train.objectives import AnyObjective
from raylm.train.objectives.next_token import NextToken
from raylm.trainer.config import TrainerConfig
from raylm.trainer.teacher_workers import TEACHER

if TYPE_CHECKING:
    from raylm.parallel.checkpoints.steps import Keeping

TrainableRef = Annotated[str, Refers(("Checkpoint",), TRAINABLE)]
AnyModel = Annotated[Annotated[TrainableRef, Tag("ref")] | Annotated[AnyShape, Tag("table")], Discriminator(ref_or_table)]


class Train(TrainerConfig):
    """rows + weights -> Checkpoint: pretraining, fine-tuning and preference alignment by one loop."""

    placement = TrainerConfig.placement | {"keep_best", "scorers", "padding_free", "reference"}
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

    known_as = {
        "per_device_train_batch_size": "batch, global and in rows, and micro_batch, per forward pass and rank",
        "gradient_accumulation_steps": "batch: what does not fit into micro_batch is accumulated",
        "num_train_epochs": "epochs",
        "max_steps": "steps",
        "eval_steps": "evaluate_every",
        "max_length": "form = {length = ...} of the tokenize stage",
        "max_seq_length": "form = {length = ...} of the tokenize stage",
        "packing": "form of the tokenize stage: dialogues are packed by themselves",
        "beta": "objective = {beta = ...}",
        "loss_type": "objective = {loss_type = ...}",
    }

    stage: Literal["train"]
    rows: AnyRows
    """What is learned from: an artifact of tokenize, or a mixture of several: {kind = "mixture", parts = [...]}."""
    document_mask: bool | None = None
    """In packed rows a token sees its own document alone, and its position counts from where that begins. Left out: on for
    dialogues that share a row, off for text."""
    model: AnyModel
    """Weights to start from (a stage, a folder, a hub name), or a table with the shape of a new model."""
    new_tokens: NewTokens | None = None
    """Give the model rows for tokens that its rows' tokenizer has and it has not: `new_tokens = {}`. Without it such rows are
    refused."""
    objective: AnyObjective = NextToken()
    """The loss."""
    reference: Literal["live", "stored"] = "live"
    """Where an objective compares with the frozen start: `live` asks it in each step (beside an adapter: the model without it),
    `stored` scores all rows once, before training, and keeps no second model. The numbers are the same."""
    batch: int | None = Field(default=None, gt=0)
    """Global batch in rows: the same for any number of workers."""
    batch_tokens: int | None = Field(default=None, gt=0)
    """Global batch in tokens, in place of `batch`: as many rows as hold them on average."""
    micro_batch: int | Literal["auto"] = 8
    """Rows per forward pass and rank, the rest of the batch is accumulated; `auto` measures how many the memory holds."""
    scorers: WorkerSpec | None = None
    """Processes that score rows, ahead of training or beside it, where the objective has a frozen model do that: each holds that
    model whole. As many and as large as `workers` where it does not say."""
    padding_free: bool | Literal["auto"] = "auto"
    """Lay the sequences of a micro batch one behind the other in place of padding them, and what they share (the prompt of a
    pair) once; numbers stay what they are. `auto` does so with Pairs and Unpaired where model and layout allow it."""
    steps: int | None = Field(default=None, gt=0)
    """Number of optimizer steps."""
    epochs: float | None = Field(default=None, gt=0)
    """Passes over the rows (of a mixture: as many draws as all parts have rows), in place of `steps`."""
    tokens: int | None = Field(default=None, gt=0)
    """Tokens to train on, in place of `steps`."""
    held_out_rows: int = 256
    """Held-out rows on which the loss is measured before and after; 0 measures none."""
    evaluate_every: int | None = Field(default=None, gt=0)
    """Steps between measurements of the held-out rows; without it they are measured before and after."""
    keep_best: int = Field(default=0, ge=0)
    """Number of step checkpoints of lowest held-out loss that are kept too; a step that is among them is saved at once."""
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
        objective: Any = self.objective
        if self.check_export.vllm and (getattr(objective, "makes", "") or getattr(objective, "model", "causal")) != "causal":
            raise ValueError(f"check_export.vllm: vLLM draws tokens, {card_kind(objective)} leaves a model that does not")
        if isinstance(self.micro_batch, int) and self.micro_batch < 1:
            raise ValueError("micro_batch is at least 1, or 'auto'")
        live = self.reference == "live" and "reference" in getattr(self.objective, "needs", ())
        if live and self.adapter and (why := self.adapter.no_live_reference()):
            raise ValueError(f'{why}: reference = "stored", or `raylm merge` the adapter first and train a new one')
        if self.batch == 1 and "mismatched" in getattr(self.objective, "needs", ()):
            raise ValueError("a batch of one row has no other row whose answer could stand beside its prompt: raise batch")
        return self

    def planned(self, length: int) -> tuple[int, int, int | None]:
        """Tokens of the longest row, rows of a global batch, and steps where they do not depend on the number of rows."""
        batch = self.batch or max(1, round((self.batch_tokens or 0) / length))
        return length, batch, self.steps or (max(1, round(self.tokens / length / batch)) if self.tokens else None)

    def engine_spec(self) -> GeneratorSpec:
        """The engine that the exported checkpoint is compared with."""
        return GeneratorSpec(gpus=min(1.0, self.workers.gpus))

    def roles(self) -> dict[str, Role]:
        # it starts when the ranks are done
        more = {"generator": self.engine_spec().role(phase=1)} if self.check_export.vllm else {}
        if getattr(self.objective, "scores_ahead", bool)():
            more["scorers"] = (self.scorers or self.workers).role(phase=2)
        if getattr(self.objective, "scores_beside", bool)():
            more[TEACHER] = (self.scorers or self.workers).role()
        return {**super().roles(), **more}

    def keeping(self) -> Keeping:
        return super().keeping()._replace(best=max(self.keep_best, self.export == "best"))

    def makes(self) -> Makes:
        # another one's objective says so once it is resolved
        return Makes("Checkpoint", getattr(self.objective, "makes", "") or getattr(self.objective, "model", ""))

    def narrowed(self) -> dict[str, Refers]:
        objective: Any = self.objective
        # what it leaves can go on too
        models = tuple(filter(None, (getattr(objective, name, "") for name in ("model", "makes"))))
        models += ("quantized",) if getattr(self.adapter, "takes_4bit", False) else ()
        by = f"objective {card_kind(objective)}"
        return {"rows": Refers(getattr(objective, "rows", ()), by=by), "model": Refers((), models, by)}
