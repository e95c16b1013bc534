"""Takes a model, rows and an objective, leaves a trained engine. Runs on every rank, with Ray Train around it or without.

rows --(seed, step)--> micro batches --> engine.accumulate(objective.loss) --> step --> metrics
                          weight: summed over all ranks before any backward
every `save_every` steps: model, optimizer and metrics history as one step checkpoint; resume starts from the newest
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
from raylm.parallel.checkpoints import load, newest_checkpoint, prune_checkpoints, save
from raylm.parallel.engine import Engine
from raylm.train.batches import Batches, Micro

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
    rewind: Callable[[list[dict[str, Any]]], None]

    def run(self) -> dict[str, float]:
        """Train from the newest step checkpoint to the last step; returns metrics of the held-out rows, before and after."""
        work = Folder(self.setup.work)
        history, before, skipped = self._resume(work)
        for step in range(self.engine.done, self.setup.steps):
            values = self._step(step)
            skipped += not values["finite"]
            if skipped > self.cfg.max_skipped:
                raise TrainingError(
                    f"step {step}: gradient norm {values['grad_norm']}, loss {values['loss']}",
                    where=f"rows {sorted(self.batches.indices(step))[:8]} ... of {' + '.join(self.setup.rows_uris)}",
                    next="lower optimizer.lr, or allow skips with max_skipped; finished step checkpoints are kept",
                )
            history.append({"step": step, **values})
            self.log(step, **values)
            if (step + 1) % self.cfg.save_every == 0 and step + 1 < self.setup.steps:
                self._save(work, history, before, skipped)
        after = self.evaluate()
        return {
            **{f"{name}_before": value for name, value in before.items()},
            **{f"{name}_after": value for name, value in after.items()},
            "skipped_steps": skipped,
        }

    def evaluate(self) -> dict[str, float]:
        """Mean of the objective's metrics over the held-out rows; the model is left as it was."""
        if self.held_out is None:
            return {}
        micros = self.held_out.split(self.held_out.first(self.cfg.held_out_rows))
        inputs, weight = self._inputs(micros, step=-1)
        sums = self.engine.measure(inputs, self._loss_of(micros, inputs, weight), **self._asked())
        return {f"held_out_{name}": total / weight for name, total in sums.items()}

    def _step(self, step: int) -> dict[str, Any]:
        import torch

        started = time.perf_counter()
        micros = self.batches.at(step)
        inputs, weight = self._inputs(micros, step)
        (tokens,) = self.engine.sum([sum(float(m.padded.attend_BT.sum()) for m in micros)])
        # a fresh stream for every (step, rank): dropout is the same in a resumed run, and no generator state is saved
        torch.manual_seed(self._seed(step))
        sums = self.engine.accumulate(inputs, self._loss_of(micros, inputs, weight), **self._asked())
        stats = self.engine.step()
        means = {name: total / weight for name, total in sums.items()}
        finite = stats.finite and means["loss"] == means["loss"]
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

    def _resume(self, work: Folder) -> tuple[list[dict[str, Any]], dict[str, float], int]:
        newest = newest_checkpoint(work)
        if newest is None:
            self.rewind([])
            return [], self.evaluate(), 0
        facts = load(self.engine, newest)
        self.rewind(facts["history"])
        return facts["history"], facts["before"], facts["skipped"]

    def _save(self, work: Folder, history: list[dict[str, Any]], before: dict[str, float], skipped: int) -> None:
        at = work / f"step-{self.engine.done:08d}"
        save(self.engine, at, {"history": history, "before": before, "skipped": skipped})
        if self.engine.rank == 0:
            prune_checkpoints(work, self.cfg.keep)
