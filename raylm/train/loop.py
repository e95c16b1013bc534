"""Takes a model, rows and an objective, leaves a trained engine. Runs on every rank, with Ray Train around it or without.

rows --(seed, step)--> micro batches --> objective.loss --> backward --> step --> metrics
                          weight: summed over all ranks before any backward
every `save_every` steps: model, optimizer and metrics history as one step checkpoint; resume starts from the newest
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from raylm.core.config import Config
from raylm.core.errors import TrainingError
from raylm.core.storage import Folder
from raylm.model.logprobs import token_logprobs
from raylm.parallel.engine import Engine, newest_checkpoint, prune_checkpoints
from raylm.train.batches import Batches, Micro

if TYPE_CHECKING:
    import torch

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
    reference: torch.nn.Module | None
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
        import torch

        if self.held_out is None:
            return {}
        weight, sums = 0.0, {}
        self.engine.model.eval()
        with torch.no_grad():
            for micro in self.held_out.split(self.held_out.first(self.cfg.held_out_rows)):
                weight += micro.weight
                for name, value in self._loss(micro).metrics.items():
                    sums[name] = sums.get(name, 0.0) + float(value)
        self.engine.model.train()
        totals = self.engine.sum([weight, *sums.values()])
        return {f"held_out_{name}": total / totals[0] for name, total in zip(sums, totals[1:], strict=True)}

    def _step(self, step: int) -> dict[str, Any]:
        import time

        import torch

        started = time.perf_counter()
        # a fresh stream for every (step, rank): dropout is the same in a resumed run, and no generator state is saved
        torch.manual_seed(hash((self.cfg.seed, step, self.engine.rank)) & 0x7FFFFFFF)
        micros = self.batches.at(step)
        weight, tokens = self.engine.sum([sum(m.weight for m in micros), sum(float(m.padded.attend_BT.sum()) for m in micros)])
        sums: dict[str, float] = {}
        for index, micro in enumerate(micros):
            loss = self._loss(micro, last=index == len(micros) - 1)
            self.engine.backward(loss.total / weight)
            for name, value in loss.metrics.items():
                sums[name] = sums.get(name, 0.0) + float(value)
        stats = self.engine.step()
        means = {name: total / weight for name, total in zip(sums, self.engine.sum(sums.values()), strict=True)}
        finite = stats.finite and means["loss"] == means["loss"]
        seconds = time.perf_counter() - started
        return {**means, "grad_norm": stats.grad_norm, "lr": stats.lr, "finite": finite, "tokens_per_s": tokens / seconds}

    def _loss(self, micro: Micro, last: bool = True) -> Any:
        import torch

        objective: Any = self.cfg.objective
        reference = None
        with self.engine.compute(last):
            if "reference" in objective.needs:
                with torch.no_grad(), self._as_reference():
                    model = self.engine.model if self.reference is None else self.reference
                    reference = (token_logprobs(model, micro.padded) * micro.padded.weight_BT).sum(1)
            return objective.loss(self.engine.model, micro, reference)

    def _as_reference(self) -> Any:
        """The reference computes in the policy's dtype, or their difference would be rounding."""
        import torch

        if self.reference is None:
            return self.engine.bare.disable_adapter()
        if self.cfg.dtype == "float32":
            return nullcontext()
        return torch.autocast(next(self.reference.parameters()).device.type, getattr(torch, self.cfg.dtype))

    def _resume(self, work: Folder) -> tuple[list[dict[str, Any]], dict[str, float], int]:
        newest = newest_checkpoint(work)
        if newest is None:
            self.rewind([])
            return [], self.evaluate(), 0
        facts = self.engine.load(newest)
        self.rewind(facts["history"])
        return facts["history"], facts["before"], facts["skipped"]

    def _save(self, work: Folder, history: list[dict[str, Any]], before: dict[str, float], skipped: int) -> None:
        at = work / f"step-{self.engine.done:08d}"
        self.engine.save(at, {"history": history, "before": before, "skipped": skipped})
        if self.engine.rank == 0:
            prune_checkpoints(work, self.cfg.keep)
