"""What every objective has: what it needs, what it asks of the model, what a batch weighs, its loss."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from pydantic import Field

from raylm.core.config import Config
from raylm.trainer.loss import Loss

if TYPE_CHECKING:
    import numpy as np
    import torch

    from raylm.data.batch import Batch
    from raylm.model.head import Asks
    from raylm.model.scores import Inputs, Scores
    from raylm.trainer.setup import Setup
    from raylm.trainer.stored_scores import Scorer

REFERENCE = "reference"
"""What is stored of a row whose sequences a frozen reference has scored: their log-probabilities, in nats."""


class Passes(NamedTuple):
    """Forward passes without gradients over micro batches. Ranks meet in each: all must call, with equally many inputs."""

    policy: Callable[..., list[Scores]]
    """Scores by the model that learns, of several inputs; `asks` as in `Engine.forward`."""
    reference: Callable[..., list[Scores]]
    """The same by the frozen start."""
    sum: Callable[[Iterable[float]], list[float]]
    """Each value summed over the ranks that hold different rows."""
    teacher: Callable[..., list[Scores]] | None = None
    """Scores by the teacher, where it is live."""


class Objective(Config):
    """A training loss: a pure function of the scores of the tokens it asks for, and of what it prepared."""

    rows: ClassVar[tuple[str, ...]] = ()
    """Kinds of rows it learns from."""
    needs: ClassVar[tuple[str, ...]] = ()
    """`reference`: the frozen start is kept. `tokenizer`: it must be `fitted` first. `mismatched`: batches come with the
    prompts beside completions of other rows. `teacher`: the model that its field `teacher` names answers beside (`complete`)."""
    num_passes: ClassVar[int] = 1
    """Forward passes of a step over its batch: the one that learns, and those of `prepare`."""
    unit: ClassVar[str] = "trainable_tokens"
    """What `weight` counts."""
    model: ClassVar[str] = "causal"
    """Variant of the checkpoint it starts from (`raylm.core.variants`)."""
    makes: ClassVar[str] = ""
    """Variant of the checkpoint it leaves, where that is another. `reward`: the model gets a value head, unless it has one."""
    drops: ClassVar[bool] = True
    """Whether dropout of the model and its adapter is on while it trains."""
    stores_reference: ClassVar[bool] = False
    """Whether it asks its reference for `reference_sums` of its batches alone, which can be stored with the rows."""
    no_store: ClassVar[str] = "asks a reference for nothing that could be stored"
    """Why not."""
    padding_free: ClassVar[bool] = False
    """Whether it takes several sequences in a row: it sums over sequences by `Batch.sums` alone, or over all tokens."""
    by_part: ClassVar[bool] = False
    """Whether the loss of each part of a mixture is told: it is the mean of -log p over the tokens of its rows."""

    def fitted(self, rows_kind: str, tokenizer: Any) -> Objective:
        """The objective with what it needs to know of rows and tokenizer. Raises ConfigError when they lack it."""
        return self

    def for_model(self, model: Any) -> Objective:
        """The objective with what it needs to know of the model. Raises ConfigError when the model does not say it."""
        return self

    def scores_ahead(self) -> bool:
        """Whether a frozen model scores all rows before training, in place of answering beside it (`Batch.scores`)."""
        return False

    def scores_beside(self) -> bool:
        """Whether a frozen model on workers of its own scores the rows of each step (`Batch.scores`)."""
        return False

    def scorer(self, setup: Setup, document_mask: bool) -> Scorer:
        """Who scores rows, where `scores_ahead` or `scores_beside`.

        Args:
            document_mask: documents of a row are kept apart.
        """
        raise NotImplementedError

    def complete(self, batches: Sequence[Batch], passes: Passes) -> Sequence[Batch]:
        """The micro batches with what `inputs` needs to know of other models, before the model is fed. Ranks meet in it."""
        return batches

    def inputs(self, batch: Batch, seed: int) -> Inputs:
        """What the model is fed and asked; next-token prediction unless an objective says otherwise.

        Args:
            seed: of the step, equal on all ranks and in a resumed run, for objectives that draw (`draw`).
        """
        from raylm.model.scores import causal

        return causal(batch)

    def asks(self) -> Asks:
        """What the model's head is asked."""
        from raylm.model.head import Asks

        return Asks()

    def weight(self, batch: Batch, inputs: Inputs) -> float:
        """What this micro batch weighs in the global batch: tokens that count, or rows."""
        return float(inputs.weight_BT.sum())

    def prepare(self, batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> Sequence[Any]:
        """What `loss` is handed beside the scores, one value per micro batch, made before the first of them learns: the
        reference's scores where they are needed, unless an objective says otherwise."""
        return passes.reference(inputs) if "reference" in self.needs else [None] * len(batches)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Any = None) -> Loss:
        """Sums over the micro batch; `metrics` hold `loss`."""
        raise NotImplementedError


class TokenLoss(Objective):
    """Cross-entropy of the tokens that are asked for."""

    z_loss: float = Field(default=0.0, ge=0)
    """Weight of the squared log-sum-exp of the logits, which keeps them from drifting (PaLM: 1e-4)."""

    def asks(self) -> Asks:
        from raylm.model.head import Asks

        return Asks(linear=True, z_loss=self.z_loss)

    def loss(self, scores: Scores, inputs: Inputs, batch: Batch, prepared: Any = None) -> Loss:
        """Sum of -log p over the tokens that count, in nats; the metric `loss` is without z-loss."""
        total = -(scores.logprob_BT * inputs.weight_BT).sum()
        metrics = {"loss": total.detach()}
        if self.z_loss:
            total = total + self.z_loss * (scores.lse_BT.square() * inputs.weight_BT).sum()
        return Loss(total, metrics)


def reference_sums(batches: Sequence[Batch], inputs: Sequence[Inputs], passes: Passes) -> list[torch.Tensor]:
    """Log-probability of each sequence's tokens that count, in nats, by the frozen reference; [S] of each batch. Where it was
    stored with the rows, no model is asked."""
    if batches and all(batch.scores and REFERENCE in batch.scores[0] for batch in batches):
        return [_stored_sums(batch) for batch in batches]
    scored = zip(batches, inputs, passes.reference(inputs), strict=True)
    return [batch.sums(scores.logprob_BT * one.weight_BT) for batch, one, scores in scored]


def _stored_sums(batch: Batch) -> torch.Tensor:
    import numpy as np
    import torch

    found_PN = torch.from_numpy(np.array([row[REFERENCE] for row in batch.scores], dtype=np.float64)).to(batch.tokens_BT.device)
    # the first sequence of every row, then the second; rows that only fill up have no token that counts
    return (found_PN * batch.row_weight_P[:, None]).t().flatten()


def draw(seed: int, rows: Sequence[int], index: int) -> np.random.Generator:
    """Random numbers for row `index` of a micro batch: they depend on step and row alone, not on ranks and micro batches."""
    import numpy as np

    return np.random.default_rng([seed, rows[index] if index < len(rows) else index])
