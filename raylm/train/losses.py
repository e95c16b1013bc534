"""The objective of one run on one rank: inputs and weight of a batch, and its loss."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.core.errors import TrainingError
from raylm.train.config import Train
from raylm.train.objectives.objective import Passes
from raylm.trainer.loss import Loss
from raylm.trainer.trainer import LossOf, Trainer
from raylm.trainer.watch.meter import Domains

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.head import Asks
    from raylm.model.scores import Inputs, Scores


class Losses:
    """The objective of one run.

    Args:
        domains: where rows are mixed: tells the losses of the parts apart.
    """

    def __init__(self, cfg: Train, trainer: Trainer, domains: Domains | None) -> None:
        self._objective: Any = cfg.objective
        self.unit: str = self._objective.unit
        """What the weight counts."""
        self.asks: Asks = self._objective.asks()
        """What the loss asks of the model's head."""
        self._seed, self._trainer, self._domains = cfg.seed, trainer, domains

    def completed(self, micros: list[Batch]) -> list[Batch]:
        """The micro batches with what other models say of them. Every rank must call."""
        return list(self._objective.complete(micros, self._passes()))

    def inputs(self, micros: list[Batch], step: int) -> tuple[list[Inputs], float]:
        """What the model is fed, and the weight of the whole global batch; `step` is -1 for held-out rows."""
        seed = hash((self._seed, step)) & 0x7FFFFFFF
        inputs = [self._objective.inputs(micro, seed) for micro in micros]
        weights = (self._objective.weight(micro, one) for micro, one in zip(micros, inputs, strict=True))
        (weight,) = self._trainer.engine.sum([sum(weights)])
        if not weight:
            of, uris = (
                ("a batch", f"step {step}, ") if step >= 0 else ("the held-out rows", ""),
                " + ".join(self._trainer.setup.rows_uris),
            )
            raise TrainingError(
                f"no token of {of[0]} counts",
                where=of[1] + uris,
                next="raise batch, or look at the loss mask of these rows" if step >= 0 else "set held_out_rows = 0",
            )
        return inputs, weight

    def parts(self, means: dict[str, Any]) -> dict[str, float]:
        """The losses of a mixture's parts; what they are made of is taken out of `means`."""
        return self._domains.means(means) if self._domains else {}

    def loss_of(self, micros: list[Batch], inputs: list[Inputs]) -> LossOf:
        """The loss of each micro batch, with what the objective prepared for it."""
        prepared = self._objective.prepare(micros, inputs, self._passes())

        def loss(index: int, scores: Scores) -> Loss:
            made = self._objective.loss(scores, inputs[index], micros[index], prepared[index])
            if self._domains and scores.logprob_BT.requires_grad:
                made = made._replace(metrics=made.metrics | self._domains.sums(scores, inputs[index], micros[index]))
            return made

        return loss

    def _passes(self) -> Passes:
        trainer = self._trainer
        teacher = trainer.teacher.forward if trainer.teacher else None
        return Passes(trainer.engine.forward, trainer.forward_reference, trainer.engine.sum, teacher)
