"""The training loop: batches of rows through an objective, step checkpoints, held-out loss. Runs on every rank, with Ray Train
around it or without.

rows --(seed, step)--> micro batches --> trainer.update(objective.loss) --> metrics
                          weight: summed over all ranks before any backward
every `save_every` steps: model, optimizer, ledger and metrics rows as one step checkpoint, written while training goes on;
resume starts from the newest
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from raylm.core.storage import Folder
from raylm.parallel.checkpoints.steps import MEASURED, folder_of, load
from raylm.parallel.group.preemption import Leave
from raylm.train.batches import Batches
from raylm.train.config import Train
from raylm.train.losses import Losses
from raylm.trainer.trainer import StepInputs, Trainer
from raylm.trainer.watch.meter import Domains


@dataclass(kw_only=True)
class Loop(Trainer):
    """One run on one rank."""

    cfg: Train
    batches: Batches
    held_out: Batches | None
    log: Callable[..., None]
    rewind: Callable[..., None]
    """Called with the step from which the run goes on, and `rollback` where this group itself went back; rows of earlier steps
    lie in `History(work)`."""
    domains: Domains | None = None
    """Where rows are mixed: tells the losses of the parts apart."""

    def __post_init__(self) -> None:
        if not getattr(self.cfg.objective, "drops", True):
            self.engine.drop_nothing()
        super().__post_init__()
        self.losses = Losses(self.cfg, self, self.domains)
        self.facts["before"] = {}

    def run(self) -> dict[str, float]:
        """Train from the newest step checkpoint to the last step; returns metrics of the held-out rows, before and after."""
        self._go_on()
        while self.engine.done < self.setup.steps:
            step = self.engine.done
            with self.profiler.step(step):
                values = self.step(step)
            if values is None:
                decision = self.pass_over(step, self._rows(step))
                if decision["what"] == "rollback":
                    self._go_on(decision["to"])
                continue
            self.check_skipped(step, values, lambda at=step: self._rows(at))
            if self._is_due(self.cfg.evaluate_every):
                values |= self.evaluate()
            self._keep(step, values)
        return self._finish()

    def evaluate(self) -> dict[str, float]:
        """Mean of the objective's metrics over the held-out rows; the model is left as it was."""
        if self.held_out is None:
            return {}
        micros = self.losses.completed(self.held_out.split(self.held_out.first(self.cfg.held_out_rows)))
        inputs, weight = self.losses.inputs(micros, step=-1)
        means = self.measure(inputs, weight, lambda: self.losses.loss_of(micros, inputs), self.losses.asks)
        return {f"held_out_{name}": mean for name, mean in means.items()}

    def step(self, step: int) -> dict[str, Any] | None:
        """One step; None when its batch was a spike and nothing was changed."""
        self.meter.start()
        self.heartbeat.mark("data", step)
        position = self.course.position(step)
        micros = self.batches.at(position)
        self.meter.read()
        micros = self.losses.completed(micros)
        inputs, weight = self.losses.inputs(micros, step)
        # whether a rank is to leave travels with a sum that is made anyway
        tokens = sum(float(micro.counted_BT.sum()) for micro in micros)
        tokens, leaving = self.engine.sum([tokens, float(bool(self.heartbeat.asked()))])
        self._leave_if(leaving, step)
        rows, counted = [row for micro in micros for row in micro.rows], [micro.counted_BT for micro in micros]
        batch = StepInputs(inputs, weight, self.losses.unit, tokens, counted, position, rows)
        values = self.update(step, batch, lambda: self.losses.loss_of(micros, inputs), self.losses.asks)
        return values and values | self.losses.parts(values)

    def _go_on(self, step: int | None = None) -> None:
        """Go on from the checkpoint of `step`, or the newest; from the start where there is none."""
        found = self.resume(step)
        self.rewind(self.engine.done, rollback=step is not None)
        if found is None:
            # a group that dies before its first checkpoint measures again
            self.facts["before"] = self.evaluate()

    def _rows(self, step: int) -> list[int]:
        """Rows of the global batch of `step`."""
        return self.batches.indices(self.course.position(step))

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
            self.write(self.engine.done)
        # until all ranks have written: one that ends now takes its group with it
        last = self.saver.wait()
        self.say(f"leaving: {last.failure.what if last and last.failure else f'step {self.saver.newest} is saved'}")
        self.saver.close()
        raise Leave(self.heartbeat.asked())

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
            self.write(self.engine.done, loss)

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
        self.finish(self.setup.steps, self.batches.indices)
        return {
            **{f"{name}_before": value for name, value in self.facts["before"].items()},
            **{f"{name}_after": value for name, value in after.items()},
            "skipped_steps": self.facts["skipped"] + len(self.course.passed()),
            "failed_saves": self.saver.num_failed,
            **({"exported_step": taken} if self.cfg.export == "best" else {}),
        }
