"""Takes a model, rows and an objective, leaves a trained engine. Runs on every rank, with Ray Train around it or without.

rows --(seed, step)--> micro batches --> engine.accumulate(objective.loss) --> step --> metrics
                          weight: summed over all ranks before any backward
every `save_every` steps: model, optimizer, ledger and metrics rows as one step checkpoint, written while training goes on;
resume starts from the newest
"""

from __future__ import annotations

import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raylm.core.config import Config
from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.parallel.checkpoints import MEASURED, Keeping, folder_of, load
from raylm.parallel.engine import Engine
from raylm.parallel.saver import Saver
from raylm.train.batches import Batches, Micro
from raylm.train.ledger import Ledger
from raylm.train.segments import History

if TYPE_CHECKING:
    from raylm.model.scores import Inputs, Scores
    from raylm.train.config import Train


class Setup(Config):
    """What the driver resolved for the ranks: where things lie and how long the run is."""

    rows_uris: list[str]
    """Artifacts of rows, several where they are mixed."""
    num_rows: list[int]
    """Training rows of each."""
    rows_kind: str
    model_path: str | None
    tokenizer_path: str
    tokens: dict[str, Any]
    """Facts of the rows: vocab_size, bos_token_id, eos_token_id, pad_token_id."""
    steps: int
    out: str
    work: str


def keeping_of(cfg: Train) -> Keeping:
    """Which step checkpoints of a run stay; the one that may be exported is among them."""
    return Keeping(cfg.keep, max(cfg.keep_best, cfg.export == "best"), cfg.keep_every)


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
    rewind: Callable[[int], None]
    """Told the step from which the run goes on; rows of earlier steps lie in `History(work)`."""

    def __post_init__(self) -> None:
        cfg, work = self.cfg, Folder(self.setup.work)
        self.saver = Saver(self.engine, work, keeping_of(cfg), cfg.max_failed_saves)
        self.ledger = Ledger(work, self.setup.num_rows, self.engine.grid)
        self.history = History(work, self.engine.rank)
        self.facts: dict[str, Any] = {"before": {}, "skipped": 0}
        """What a step checkpoint says beside its tensors; equal on all ranks."""

    def run(self) -> dict[str, float]:
        """Train from the newest step checkpoint to the last step; returns metrics of the held-out rows, before and after."""
        self._resume()
        while self.engine.done < self.setup.steps:
            step = self.engine.done
            values = self._step(step)
            self.facts["skipped"] += not values["finite"]
            if self.facts["skipped"] > self.cfg.max_skipped:
                self.saver.close()
                raise TrainingError(
                    f"step {step}: gradient norm {values['grad_norm']}, loss {values['loss']}",
                    where=f"rows {sorted(self.batches.indices(step))[:8]} ... of {' + '.join(self.setup.rows_uris)}",
                    next="lower optimizer.lr, or allow skips with max_skipped; finished step checkpoints are kept",
                )
            if self._is_due(self.cfg.evaluate_every):
                values |= self.evaluate()
            self._keep(step, values)
        return self._finish()

    def evaluate(self) -> dict[str, float]:
        """Mean of the objective's metrics over the held-out rows; the model is left as it was."""
        if self.held_out is None:
            return {}
        micros = self.held_out.split(self.held_out.first(self.cfg.held_out_rows))
        inputs, weight = self._inputs(micros, step=-1)
        with self.engine.averages():
            sums = self.engine.measure(inputs, self._loss_of(micros, inputs, weight), **self._asked())
        return {f"held_out_{name}": total / weight for name, total in sums.items()}

    def _step(self, step: int) -> dict[str, Any]:
        import torch

        started = time.perf_counter()
        micros = self.batches.at(step)
        read = [row for micro in micros for row in micro.rows]
        inputs, weight = self._inputs(micros, step)
        (tokens,) = self.engine.sum([sum(float(m.padded.attend_BT.sum()) for m in micros)])
        # a fresh stream for every (step, rank): dropout is the same in a resumed run, and no generator state is saved
        torch.manual_seed(self._seed(step))
        sums = self.engine.accumulate(inputs, self._loss_of(micros, inputs, weight), **self._asked())
        stats = self.engine.step()
        means = {name: total / weight for name, total in sums.items()}
        finite = stats.finite and means["loss"] == means["loss"]
        self.ledger.add(step, step, read, trained=stats.finite)
        seconds = time.perf_counter() - started
        return {**means, "grad_norm": stats.grad_norm, "lr": stats.lr, "finite": finite, "tokens_per_s": tokens / seconds}

    def _asked(self) -> dict[str, Any]:
        objective: Any = self.cfg.objective
        return objective.asked()

    def _seed(self, step: int) -> int:
        return hash((self.cfg.seed, step, self.engine.grid.data_rank)) & 0x7FFFFFFF

    def _inputs(self, micros: list[Micro], step: int) -> tuple[list[Inputs], float]:
        """What the model is fed, and the weight of the whole global batch, known before any backward."""
        objective: Any = self.cfg.objective
        inputs = [objective.inputs(micro.padded, self._seed(step) + index) for index, micro in enumerate(micros)]
        (weight,) = self.engine.sum([sum(objective.weight(micro, one) for micro, one in zip(micros, inputs, strict=True))])
        return inputs, weight

    def _loss_of(self, micros: list[Micro], inputs: list[Inputs], weight: float) -> Callable[[int, Scores], Any]:
        objective: Any = self.cfg.objective
        references: list[Any] = [None] * len(micros)
        if "reference" in objective.needs:
            with nullcontext() if self.reference else self.engine.bare.disable_adapter():
                references = (self.reference or self.engine).forward(inputs)

        def loss(index: int, scores: Scores) -> Any:
            made = objective.loss(scores, inputs[index], micros[index], references[index])
            return made._replace(total=made.total / weight)

        return loss

    def _resume(self, step: int | None = None) -> None:
        """Go on from the checkpoint of `step`, or the newest; from the start where there is none."""
        found = self.saver.load(step)
        self.history.rewind(self.engine.done)
        self.ledger.rewind(self.engine.done)
        self.rewind(self.engine.done)
        # a group that dies before its first checkpoint measures again
        self.facts |= found if found is not None else {"before": self.evaluate()}

    def _keep(self, step: int, values: dict[str, Any]) -> None:
        """Log the row of `step`; save when that is due, or when what was just measured is among the best."""
        saved = self.saver.poll()
        done, loss = self.engine.done, values.get(MEASURED)
        due = self._is_due(self.cfg.save_every) or self._is_due(self.cfg.keep_every)
        due = due or (loss is not None and self.saver.is_best(loss))
        if due:
            # waits for the save before, which then ends here and not in poll
            values["checkpoint_stall_s"], before = self.saver.copy()
            saved = saved or before
        if saved:
            values |= {"checkpoint_s": saved.seconds} if saved.failure is None else {"failed_saves": self.saver.num_failed}
        self.history.add({"step": step, **values})
        self.log(step, **values)
        if due:
            self.saver.write({**self.facts, MEASURED: loss}, [self.ledger.cut(done), self.history.cut(done)])

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
        self.ledger.cut(self.setup.steps).gather(self.saver.group)
        if self.engine.rank == 0:
            self.ledger.put()
            self.ledger.finish(Folder(self.setup.out), self.setup.steps, self.batches.indices)
        self.saver.close()
        return {
            **{f"{name}_before": value for name, value in self.facts["before"].items()},
            **{f"{name}_after": value for name, value in after.items()},
            "skipped_steps": self.facts["skipped"],
            "failed_saves": self.saver.num_failed,
            **({"exported_step": taken} if self.cfg.export == "best" else {}),
        }
