"""Takes micro batches, leaves the objective's loss and metrics over the whole global batch: in a step, or of held-out rows.

micro batches -> inputs of the model, weight (summed over all ranks before any backward) -> loss(index, scores)
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any

from raylm.core.errors import TrainingError
from raylm.parallel.engine import Engine
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.train.batches import Batches
from raylm.train.config import Train
from raylm.train.objectives.objective import Passes
from raylm.trainer.watch.meter import Domains, Meter

if TYPE_CHECKING:
    from raylm.data.batch import Batch
    from raylm.model.balance import Balancer
    from raylm.model.scores import Inputs, Scores


class Losses:
    """The objective of one run on one rank.

    Args:
        reference: the frozen start; None where nothing needs it, or where it is the model without its adapter.
        domains: where rows are mixed: tells the losses of the parts apart.
        uris: artifacts of rows, named in errors.
    """

    def __init__(
        self,
        cfg: Train,
        uris: list[str],
        engine: Engine,
        reference: Engine | None,
        meter: Meter,
        heartbeat: NoHeartbeat,
        balancer: Balancer | None,
        domains: Domains | None,
    ) -> None:
        self._objective: Any = cfg.objective
        self.unit: str = self._objective.unit
        """What the weight counts."""
        self._seed, self._uris = cfg.seed, uris
        self._engine, self._reference = engine, reference
        self._meter, self._heartbeat = meter, heartbeat
        self._balancer, self._domains = balancer, domains

    def inputs(self, micros: list[Batch], step: int) -> tuple[list[Inputs], float]:
        """What the model is fed, and the weight of the whole global batch; `step` is -1 for held-out rows."""
        seed = hash((self._seed, step)) & 0x7FFFFFFF
        inputs = [self._objective.inputs(micro, seed) for micro in micros]
        weights = (self._objective.weight(micro, one) for micro, one in zip(micros, inputs, strict=True))
        (weight,) = self._engine.sum([sum(weights)])
        if not weight:
            of, uris = ("a batch", f"step {step}, ") if step >= 0 else ("the held-out rows", ""), " + ".join(self._uris)
            raise TrainingError(
                f"no token of {of[0]} counts",
                where=of[1] + uris,
                next="raise batch, or look at the loss mask of these rows" if step >= 0 else "set held_out_rows = 0",
            )
        return inputs, weight

    def learn(self, micros: list[Batch], inputs: list[Inputs], weight: float, step: int) -> dict[str, float]:
        """Forward and backward passes of one step: gradients of the mean over the global batch, and the means of the metrics."""
        loss = self.loss_of(micros, inputs, weight, step)
        if self._balancer:
            self._balancer.begin([micro.counted_BT for micro in micros], self._engine.sum)
        sums = self._engine.accumulate(inputs, loss, **self._objective.asked())
        busy = self._balancer.end(self._engine.sum) if self._balancer else {}
        parts = self._domains.means(sums) if self._domains else {}
        return {name: total / weight for name, total in sums.items()} | parts | busy

    def measure(self, held_out: Batches | None, num_rows: int, step: int) -> dict[str, float]:
        """Means over the first `num_rows` held-out rows; the model is left as it was."""
        if held_out is None:
            return {}
        micros = held_out.split(held_out.first(num_rows))
        inputs, weight = self.inputs(micros, step=-1)
        with self._engine.averages():
            sums = self._engine.measure(inputs, self.loss_of(micros, inputs, weight, step), **self._objective.asked())
        return {f"held_out_{name}": total / weight for name, total in sums.items()}

    def loss_of(self, micros: list[Batch], inputs: list[Inputs], weight: float, step: int) -> Callable[[int, Scores], Any]:
        """The loss as a function of the scores of each micro batch, with what the objective prepared for it."""
        self._heartbeat.mark("forward", step)
        prepared = self._objective.prepare(micros, inputs, Passes(self._engine.forward, self._frozen, self._engine.sum))

        def loss(index: int, scores: Scores) -> Any:
            self._heartbeat.mark("backward", step)
            self._meter.forward()
            made = self._objective.loss(scores, inputs[index], micros[index], prepared[index])
            if self._domains and scores.logprob_BT.requires_grad:
                made = made._replace(metrics=made.metrics | self._domains.sums(scores, inputs[index], micros[index].rows))
            total, uneven = made.total / weight, self._balancer.term() if self._balancer else None
            if uneven is None:
                return made._replace(total=total)
            # metrics are sums that are divided by the weight of the batch
            return made._replace(total=total + uneven, metrics={**made.metrics, "balance_loss": uneven.detach() * weight})

        return loss

    def _frozen(self, inputs: Sequence[Inputs], **asked: Any) -> list[Scores]:
        """Scores by the frozen start."""
        with nullcontext() if self._reference else self._engine.bare.disable_adapter():
            return (self._reference or self._engine).forward(inputs, **asked)
