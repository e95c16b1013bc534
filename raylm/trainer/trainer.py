"""The trainer: one engine on one rank, and what every stage that updates weights keeps around it.

inputs, weight --> engine.accumulate(loss) --> spike? --> engine.step --> metrics, ledger
checkpoint: model and optimizer, and beside them metrics rows, ledger and spike decisions; `resume` takes all of them back
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.model.balance import balancer_of
from raylm.model.head import LOGPROBS, Asks
from raylm.parallel.checkpoints.engines import Engines
from raylm.parallel.checkpoints.saver import Saver
from raylm.parallel.checkpoints.steps import MEASURED
from raylm.parallel.engine import Engine
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.trainer.config import TrainerConfig
from raylm.trainer.documents import name_documents
from raylm.trainer.history import History
from raylm.trainer.ledger import Ledger
from raylm.trainer.loss import Loss
from raylm.trainer.setup import Setup
from raylm.trainer.spikes import DECISIONS, SpikeHandler, in_words
from raylm.trainer.watch.meter import Meter
from raylm.trainer.watch.profile import Profiler

if TYPE_CHECKING:
    import torch

    from raylm.model.scores import Inputs, Scores

NAMED = 16
"""Rows, and documents, of a spike that are named."""
LossOf = Callable[[int, "Scores"], Loss]
"""The loss of micro batch i from its scores."""


class StepInputs(NamedTuple):
    """What one optimizer step is made of, on this rank."""

    inputs: list[Inputs]
    """Micro batches, equally many on every rank."""
    weight: float
    """Of the whole global batch: what its sums are divided by."""
    unit: str
    """What is counted: the weight, or `counted`."""
    tokens: float
    """Of the whole global batch, without padding."""
    counted_BT: list[torch.Tensor]
    """Of each micro batch: 1 on real tokens of real rows."""
    position: int
    """Place of the batch in the order of the data."""
    rows: list[int] | None
    """Numbers of the rows that this rank read; None: who calls keeps the ledger, because several steps read the same."""
    divisor: float | None = None
    """What the loss is divided by, where it is not the weight, by which metrics are."""
    counted: float | None = None
    """Number of `unit` in the whole global batch, where it is not the weight."""


@dataclass(kw_only=True)
class Trainer:
    """One run on one rank."""

    judges_loss: ClassVar[bool] = True
    """Whether a loss far above the last ones is a spike; the loss of a policy has no scale of its own."""

    cfg: TrainerConfig
    setup: Setup
    engine: Engine
    reference: Engine | None
    """The frozen start; None where nothing needs it, or where it is the model without its adapter."""
    teacher: Engine | None = None
    """A frozen model that answers beside the one that learns, where a loss needs it."""
    beside: dict[str, Engine] = field(default_factory=dict)
    """Engines of further models that learn, by name: their state is in the step checkpoints too."""
    say: Callable[[str], None] = print
    """Takes one line for people."""
    heartbeat: NoHeartbeat = field(default_factory=NoHeartbeat)
    """Hears each phase."""
    flops: tuple[float | None, float | None] = (None, None)
    """Of a token, forward and backward, and a second's peak of all ranks, where they are known."""

    def __post_init__(self) -> None:
        cfg, work, out = self.cfg, Folder(self.setup.work), Folder(self.setup.out)
        for engine in (self.engine, self.reference, self.teacher, *self.beside.values()):
            if engine is not None:
                engine.tick = self.heartbeat.tick
        saved: Any = Engines(self.engine, self.beside) if self.beside else self.engine
        self.saver = Saver(saved, work, cfg.keeping(), cfg.max_failed_saves)
        self.ledger = Ledger(work, self.setup.num_rows, self.engine.grid)
        self.history = History(work, self.engine.rank)
        self.course = SpikeHandler(cfg.spikes, work, self.engine.rank, self.judges_loss)
        self.meter = Meter(self.engine, *self.flops)
        self.profiler = Profiler(cfg.watch.profile, self.engine.rank, self.engine.device.type, out)
        mesh = self.engine.grid.mesh
        # whole rows must pass each router here
        whole = mesh.context == mesh.pipeline == 1 and (mesh.tensor == 1 or not mesh.sequence)
        self.balancer = balancer_of(self.engine.bare, cfg.balance) if whole else None
        self.events: list[str] = []
        """What was decided since the last row."""
        self.facts: dict[str, Any] = {"skipped": 0}
        """What a step checkpoint says beside its tensors; equal on all ranks."""

    def resume(self, step: int | None = None) -> dict[str, Any] | None:
        """Go on from the checkpoint of `step`, or the newest; its facts, None where there is none. Every rank must call."""
        found = self.saver.load(step)
        self.history.rewind(self.saver.newest)
        self.ledger.rewind(self.saver.newest)
        self.course.restore((found or {}).get("course"), self.saver.group)
        self.facts |= found or {}
        return found

    def update(
        self, step: int, batch: StepInputs, make_loss: Callable[[], LossOf], asks: Asks = LOGPROBS
    ) -> dict[str, Any] | None:
        """One optimizer step; its metrics, or None when the batch was a spike and nothing was changed. Every rank must call.

        Args:
            step: number that the ledger, and a reader, knows it by.
            make_loss: called once, before the first micro batch learns; it may make forward passes of its own.
            asks: what the model's head is asked.
        """
        import torch

        self.meter.meet()
        # a fresh stream for every (step, rank): dropout is the same in a resumed run, and no generator state is saved
        torch.manual_seed(self._seed(step))
        divisor = batch.weight if batch.divisor is None else batch.divisor
        share = self.share_of(make_loss, divisor, step, batch.weight)
        if self.balancer:
            self.balancer.begin(batch.counted_BT, self.engine.sum)
        sums = self.engine.accumulate(batch.inputs, share, asks)
        busy = self.balancer.end(self.engine.sum) if self.balancer else {}
        means = {name: total / (divisor if name == "loss" else batch.weight) for name, total in sums.items()}
        self.heartbeat.mark("optimizer", step)
        before = self.engine.done
        stats = self.engine.step(self._take(means["loss"]) if self.cfg.spikes else None)
        if self.engine.done == before:
            return None
        if self.balancer and stats.finite:
            self.balancer.shift()
        finite = stats.finite and means["loss"] == means["loss"]
        if batch.rows is not None:
            self.ledger.add(step, batch.position, batch.rows, trained=stats.finite)
        self.facts["skipped"] += not finite
        cost = self.meter.values(batch.tokens, batch.weight if batch.counted is None else batch.counted, batch.unit)
        return {**means, **busy, "grad_norm": stats.grad_norm, "lr": stats.lr, "finite": finite, **cost}

    def measure(
        self, inputs: list[Inputs], weight: float, make_loss: Callable[[], LossOf], asks: Asks = LOGPROBS
    ) -> dict[str, float]:
        """Means of the loss's metrics under the weights that are exported; the model is left as it was."""
        with self.engine.averages():
            sums = self.engine.measure(inputs, self.share_of(make_loss, weight, self.engine.done), asks)
        return {name: total / weight for name, total in sums.items()}

    def forward_reference(self, inputs: Sequence[Inputs], asks: Asks = LOGPROBS) -> list[Scores]:
        """Scores by the frozen start, which of an adapter is the model without it. Every rank must call."""
        if self.reference is None and self.cfg.adapter is None:
            raise TrainingError("a reference is asked that is not kept", next='reference = "live"')
        with nullcontext() if self.reference else self.engine.bare.disable_adapter():
            return (self.reference or self.engine).forward(inputs, asks)

    def share_of(self, make_loss: Callable[[], LossOf], divisor: float, step: int, weight: float | None = None) -> LossOf:
        """The loss as this rank's share of the mean over the global batch, as an engine takes it.

        Args:
            divisor: of the loss.
            weight: of the metrics, where it is another.
        """
        self.heartbeat.mark("forward", step)
        loss = make_loss()

        def share(index: int, scores: Scores) -> Loss:
            self.heartbeat.mark("backward", step)
            self.meter.forward()
            made = loss(index, scores)
            total, uneven = made.total / divisor, self.balancer.term() if self.balancer else None
            if uneven is None:
                return made._replace(total=total)
            # metrics are sums that are divided by the weight of the batch
            scale = divisor if weight is None else weight
            return Loss(total + uneven, {**made.metrics, "balance_loss": uneven.detach() * scale})

        return share

    def check_skipped(self, step: int, values: dict[str, Any], rows: Callable[[], list[int]]) -> None:
        """Raises TrainingError after more steps that were not finite than `max_skipped` allows."""
        if self.cfg.max_skipped is None or self.facts["skipped"] <= self.cfg.max_skipped:
            return
        named = sorted(rows())[:NAMED]
        documents = self.documents_of(named)
        self.saver.close()
        raise TrainingError(
            f"step {step}: gradient norm {values['grad_norm']}, loss {values['loss']}",
            where=f"rows {named[:8]} ... of {' + '.join(self.setup.rows_uris)}: {', '.join(documents)}",
            next="lower optimizer.lr, or allow skips with max_skipped; finished step checkpoints are kept",
        )

    def pass_over(self, step: int, rows: list[int]) -> dict[str, Any]:
        """Decide what follows from the batch of `rows` that was not taken. Raises TrainingError where training is to stop."""
        rows = sorted(rows)[:NAMED]
        documents = self.documents_of(rows)
        self.saver.wait()
        decision = self.course.decide(step, self.saver.newest, rows, documents)
        self.events.append(in_words(decision))
        self.say(self.events[-1])
        if decision["what"] == "stop":
            self.saver.close()
            raise TrainingError(
                in_words(decision),
                where=f"rows {rows[:8]} ... of {' + '.join(self.setup.rows_uris)}",
                next=f"look at these rows, lower optimizer.lr, or widen spikes; decisions lie in {self.setup.work}/{DECISIONS}",
            )
        return decision

    def documents_of(self, rows: list[int]) -> list[str]:
        """The first `NAMED` documents in `rows`. Every rank must call."""
        # one rank reads the index of documents: of many, all would ask the storage at once
        documents = name_documents(self.setup.rows_uris, rows)[:NAMED] if self.engine.rank == 0 else []
        return self.saver.of_rank_0(documents)

    def write(self, number: int, loss: float | None = None) -> None:
        """Write what `saver.copy` copied as the checkpoint of `number` steps, in the background.

        Args:
            loss: of the held-out rows, where it was measured.
        """
        facts = {**self.facts, "course": self.course.state(), MEASURED: loss}
        self.saver.write(facts, [self.ledger.cut(number), self.history.cut(number)], number)

    def weights(self, averaged: bool = True, merged: bool = True) -> Iterator[tuple[str, torch.Tensor]]:
        """Whole tensors on rank 0's CPU in the base model's names, adapters merged; nothing on other ranks. Every rank must call
        and iterate to the end.

        Args:
            averaged: the moving averages, where they are kept.
            merged: without it, the base and its adapters as they are, in peft's names.
        """
        with self.engine.averages() if averaged else nullcontext():
            stream = self.engine.stream()
            yield from self.cfg.adapter.merge(self.engine.bare, stream) if self.cfg.adapter and merged else stream

    def finish(self, steps: int, planned: Callable[[int], Sequence[int]], in_order: bool = True) -> None:
        """Write the ledger into the artifact and end all saving. Raises TrainingError where the ledger is not what was planned.

        Args:
            planned: the rows that a position of the data was to give.
            in_order: see `Ledger.finish`.
        """
        self.saver.check_owner()
        self.ledger.cut(steps).gather(self.saver.group)
        if self.engine.rank == 0:
            self.ledger.put()
            self.ledger.finish(Folder(self.setup.out), steps, planned, self.course.passed(), in_order)
        self.saver.close()

    def export(self, config: Any) -> None:
        """Write the trained weights, or their moving averages, as a checkpoint; the adapter is merged, and written apart."""
        from raylm.trainer.export import write_streamed

        self.heartbeat.mark("export", self.setup.steps)
        base = self.setup.model_path or ""
        with self.engine.averages():
            write_streamed(self.engine, Folder(self.setup.out), config, self.setup.tokenizer_path, self.cfg.adapter, base)

    def _seed(self, step: int) -> int:
        # ranks that share a row drop others of its tokens; ranks that share matrices hold the same tokens and drop the same
        grid = self.engine.grid
        return hash((self.cfg.seed, step, grid.data_rank * grid.mesh.context + grid.at["context"])) & 0x7FFFFFFF

    def _take(self, loss: float) -> Callable[[float], bool]:
        """What the engine asks with the gradient norm, before it updates: is this batch one like the others?"""

        def take(norm: float) -> bool:
            values = [value if math.isfinite(value) else math.inf for value in (loss, norm)]
            # ranks that share rows may differ in the last digit, and must not differ in what they do
            shared = self.engine.world > self.engine.grid.data_world
            return self.course.takes(*(self.engine.most(values) if shared else values))

        return take
