"""Takes a model, rows and an objective, leaves a trained engine. Runs on every rank, with Ray Train around it or without.

rows --(seed, step)--> micro batches --> engine.accumulate(objective.loss) --> step --> metrics
                          weight: summed over all ranks before any backward
every `save_every` steps: model, optimizer, ledger and metrics rows as one step checkpoint, written while training goes on;
resume starts from the newest
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.model.balance import balancer_of
from raylm.parallel.checkpoints.saver import Saver
from raylm.parallel.checkpoints.steps import MEASURED, folder_of, load
from raylm.parallel.engine import Engine
from raylm.parallel.group.heartbeat import NoHeartbeat
from raylm.parallel.group.preemption import Leave
from raylm.train.batches import Batches
from raylm.train.config import Train
from raylm.train.documents import name_documents
from raylm.train.losses import Losses
from raylm.train.setup import Setup, keeping_of
from raylm.trainer.history import History
from raylm.trainer.ledger import Ledger
from raylm.trainer.spikes import DECISIONS, SpikeHandler, in_words
from raylm.trainer.watch.meter import Domains, Meter
from raylm.trainer.watch.profile import Profiler

NAMED = 16
"""Rows, and documents, of a spike that are named."""


@dataclass
class Loop:
    """One run on one rank."""

    cfg: Train
    setup: Setup
    engine: Engine
    batches: Batches
    held_out: Batches | None
    reference: Engine | None
    """The frozen start; None where nothing needs it, or where it is the model without its adapter."""
    log: Callable[..., None]
    rewind: Callable[..., None]
    """Told the step from which the run goes on, and `rollback` where this group itself went back; rows of earlier steps lie in
    `History(work)`."""
    say: Callable[[str], None] = print
    """Takes one line for people."""
    heartbeat: NoHeartbeat = field(default_factory=NoHeartbeat)
    """Told each phase; asked once a step whether this rank is to leave."""
    domains: Domains | None = None
    """Where rows are mixed: tells the losses of the parts apart."""
    flops: tuple[float | None, float | None] = (None, None)
    """Of a token, forward and backward, and a second's peak of all ranks, where they are known."""

    def __post_init__(self) -> None:
        cfg, work = self.cfg, Folder(self.setup.work)
        if not getattr(cfg.objective, "drops", True):
            self.engine.drop_nothing()
        for engine in (self.engine, self.reference):
            if engine is not None:
                engine.tick = self.heartbeat.tick
        self.saver = Saver(self.engine, work, keeping_of(cfg), cfg.max_failed_saves)
        self.ledger = Ledger(work, self.setup.num_rows, self.engine.grid)
        self.history = History(work, self.engine.rank)
        self.course = SpikeHandler(cfg.spikes, work, self.engine.rank)
        self.meter = Meter(self.engine, *self.flops)
        self.profiler = Profiler(cfg.watch.profile, self.engine.rank, self.engine.device.type, Folder(self.setup.out))
        mesh = self.engine.grid.mesh
        # whole rows must pass each router here
        whole = mesh.context == mesh.pipeline == 1 and (mesh.tensor == 1 or not mesh.sequence)
        self.balancer = balancer_of(self.engine.bare, cfg.balance) if whole else None
        shown = (self.meter, self.heartbeat, self.balancer, self.domains)
        self.losses = Losses(cfg, self.setup.rows_uris, self.engine, self.reference, *shown)
        self.events: list[str] = []
        """What was decided since the last row."""
        self.facts: dict[str, Any] = {"before": {}, "skipped": 0}
        """What a step checkpoint says beside its tensors; equal on all ranks."""

    def run(self) -> dict[str, float]:
        """Train from the newest step checkpoint to the last step; returns metrics of the held-out rows, before and after."""
        self._resume()
        while self.engine.done < self.setup.steps:
            step = self.engine.done
            with self.profiler.step(step):
                values = self.step(step)
            if values is None:
                self._pass_over(step)
                continue
            self.facts["skipped"] += not values["finite"]
            if self.facts["skipped"] > self.cfg.max_skipped:
                rows, documents = self._batch(step)
                self.saver.close()
                raise TrainingError(
                    f"step {step}: gradient norm {values['grad_norm']}, loss {values['loss']}",
                    where=f"rows {rows[:8]} ... of {' + '.join(self.setup.rows_uris)}: {', '.join(documents)}",
                    next="lower optimizer.lr, or allow skips with max_skipped; finished step checkpoints are kept",
                )
            if self._is_due(self.cfg.evaluate_every):
                values |= self.evaluate()
            self._keep(step, values)
        return self._finish()

    def evaluate(self) -> dict[str, float]:
        """Mean of the objective's metrics over the held-out rows; the model is left as it was."""
        return self.losses.measure(self.held_out, self.cfg.held_out_rows, self.engine.done)

    def step(self, step: int) -> dict[str, Any] | None:
        """One step; None when its batch was a spike and nothing was changed."""
        import torch

        self.meter.start()
        self.heartbeat.mark("data", step)
        position = self.course.position(step)
        micros = self.batches.at(position)
        self.meter.read()
        read = [row for micro in micros for row in micro.rows]
        inputs, weight = self.losses.inputs(micros, step)
        tokens = sum(float(micro.counted_BT.sum()) for micro in micros)
        # whether a rank is to leave travels with a sum that is made anyway
        tokens, leaving = self.engine.sum([tokens, float(bool(self.heartbeat.asked()))])
        self._leave_if(leaving, step)
        self.meter.meet()
        # a fresh stream for every (step, rank): dropout is the same in a resumed run, and no generator state is saved
        torch.manual_seed(self._seed(step))
        means = self.losses.learn(micros, inputs, weight, step)
        self.heartbeat.mark("optimizer", step)
        stats = self.engine.step(self._take(means["loss"]) if self.cfg.spikes else None)
        if self.engine.done == step:
            return None
        if self.balancer and stats.finite:
            self.balancer.shift()
        finite = stats.finite and means["loss"] == means["loss"]
        self.ledger.add(step, position, read, trained=stats.finite)
        cost = self.meter.values(tokens, weight, self.losses.unit)
        return {**means, "grad_norm": stats.grad_norm, "lr": stats.lr, "finite": finite, **cost}

    def _seed(self, step: int) -> int:
        # ranks that share a row drop others of its tokens; ranks that share matrices hold the same tokens and drop the same
        grid = self.engine.grid
        return hash((self.cfg.seed, step, grid.data_rank * grid.mesh.context + grid.at["context"])) & 0x7FFFFFFF

    def _resume(self, step: int | None = None) -> None:
        """Go on from the checkpoint of `step`, or the newest; from the start where there is none."""
        found = self.saver.load(step)
        self.history.rewind(self.engine.done)
        self.ledger.rewind(self.engine.done)
        self.rewind(self.engine.done, rollback=step is not None)
        self.course.restore((found or {}).get("course"), self.saver.group)
        # a group that dies before its first checkpoint measures again
        self.facts |= found if found is not None else {"before": self.evaluate()}

    def _take(self, loss: float) -> Callable[[float], bool]:
        """What the engine asks with the gradient norm, before it updates: is this batch one like the others?"""

        def take(norm: float) -> bool:
            values = [value if math.isfinite(value) else math.inf for value in (loss, norm)]
            # ranks that share rows may differ in the last digit, and must not differ in what they do
            shared = self.engine.world > self.engine.grid.data_world
            return self.course.takes(*(self.engine.most(values) if shared else values))

        return take

    def _pass_over(self, step: int) -> None:
        """Do what the course says of a batch that was not taken. Raises TrainingError where the ladder ends."""
        rows, documents = self._batch(step)
        self.saver.wait()
        decision = self.course.decide(step, self.saver.newest, rows, documents)
        self.events.append(in_words(decision))
        self.say(self.events[-1])
        if decision["what"] == "rollback":
            self._resume(decision["to"])
        elif decision["what"] == "stop":
            self.saver.close()
            raise TrainingError(
                in_words(decision),
                where=f"rows {rows[:8]} ... of {' + '.join(self.setup.rows_uris)}",
                next=f"look at these rows, lower optimizer.lr, or widen spikes; decisions lie in {self.setup.work}/{DECISIONS}",
            )

    def _batch(self, step: int) -> tuple[list[int], list[str]]:
        """Rows of the global batch of `step`, and the documents in them: the first `NAMED` of each. Every rank must call."""
        rows = sorted(self.batches.indices(self.course.position(step)))[:NAMED]
        # one rank reads the index of documents: of many, all would ask the storage at once
        documents = name_documents(self.setup.rows_uris, rows)[:NAMED] if self.engine.rank == 0 else []
        return rows, self.saver.of_rank_0(documents)

    def _leave_if(self, leaving: float, step: int) -> None:
        """Write a step checkpoint and raise Leave when any rank is to leave: the step has not begun, so none is lost."""
        if self.engine.world > self.engine.grid.data_world:
            (leaving,) = self.engine.most([leaving])
        if not leaving:
            return
        self.heartbeat.mark("checkpoint", step)
        self.saver.wait()
        if self.engine.done > self.saver.newest:
            self.saver.copy()
            self._write(None)
        # until all ranks have written: one that ends now takes its group with it
        last = self.saver.wait()
        self.say(f"leaving: {last.failure.what if last and last.failure else f'step {self.saver.newest} is saved'}")
        self.saver.close()
        raise Leave(self.heartbeat.asked())

    def _write(self, loss: float | None) -> None:
        """Save what was copied; `loss` is that of the held-out rows, where it was measured."""
        facts = {**self.facts, "course": self.course.state(), MEASURED: loss}
        done = self.engine.done
        self.saver.write(facts, [self.ledger.cut(done), self.history.cut(done)])

    def _keep(self, step: int, values: dict[str, Any]) -> None:
        """Log the row of `step`; save when that is due, or when what was just measured is among the best."""
        self.heartbeat.mark("checkpoint", step)
        if self.events:
            values["event"], self.events = "; ".join(self.events), []
        saved = self.saver.poll()
        loss = values.get(MEASURED)
        due = self._is_due(self.cfg.save_every) or self._is_due(self.cfg.keep_every)
        due = due or (loss is not None and self.saver.is_best(loss))
        # a rollback needs a place to go back to, early on too
        due = due or (self.cfg.spikes is not None and self.engine.done == 1 < self.setup.steps)
        if due:
            # waits for the save before, which then ends here and not in poll
            values["checkpoint_stall_s"], before = self.saver.copy()
            saved = saved or before
        if saved:
            values |= {"checkpoint_s": saved.seconds} if saved.failure is None else {"failed_saves": self.saver.num_failed}
        values["world"] = self.engine.world
        self.history.add({"step": step, **values})
        self.log(step, **values)
        if due:
            self._write(loss)

    def _is_due(self, every: int | None) -> bool:
        """Whether what happens `every` steps does after this one; the last step has its own end."""
        return every is not None and self.engine.done % every == 0 and self.engine.done < self.setup.steps

    def _finish(self) -> dict[str, float]:
        """Close the books, choose what is exported, and measure it."""
        self.saver.wait()
        after, taken = self.evaluate(), self.engine.done
        best = self.saver.best() if self.cfg.export == "best" else None
        if best and best[1] < after.get(MEASURED, best[1]):
            taken = best[0]
            load(self.engine, folder_of(Folder(self.setup.work), taken))
            after = self.evaluate()
        self.saver.check_owner()
        self.ledger.cut(self.setup.steps).gather(self.saver.group)
        if self.engine.rank == 0:
            self.ledger.put()
            self.ledger.finish(Folder(self.setup.out), self.setup.steps, self.batches.indices, self.course.passed())
        self.saver.close()
        return {
            **{f"{name}_before": value for name, value in self.facts["before"].items()},
            **{f"{name}_after": value for name, value in after.items()},
            "skipped_steps": self.facts["skipped"] + len(self.course.passed()),
            "failed_saves": self.saver.num_failed,
            **({"exported_step": taken} if self.cfg.export == "best" else {}),
        }
