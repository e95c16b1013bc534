"""Metrics rows of a run whose loss falls, with a run's name for sinks."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raylm.trainer.watch.sinks.sink import Run


def falling(count: int = 60) -> list[dict[str, Any]]:
    return [
        {"step": step, "loss": 4.0 - 0.02 * step + 0.01 * (step % 3), "lr": 1e-3, "grad_norm": 1.0, "finite": True,
         "tokens_per_s": 1000.0 + step, "step_s": 1.0, "data_wait_s": 0.01}
        for step in range(count)
    ]  # fmt: skip


def run(folder: Path) -> Run:
    return Run("job/base", str(folder), {"stage": "train", "steps": 60})
