"""What a teacher adds to a forecast: live, its weights on the ranks and its forward passes; else the workers that
hold it, and the bytes that are kept. No torch."""

from __future__ import annotations

from typing import Any

from raylm.core.config import resolve
from raylm.core.errors import PlanError
from raylm.model.flops import flops_per_token
from raylm.model.model_spec import model_spec
from raylm.parallel.strategies.strategy import RankMemory
from raylm.trainer.forecast.devices import Device, device_of
from raylm.trainer.forecast.load import load_of, loss_of, size_of
from raylm.trainer.forecast.speed import REACHED
from raylm.trainer.teacher_scores import bytes_per_token


def teacher_memory(cfg: Any, config: dict[str, Any], world: int) -> RankMemory:
    """Bytes on the fullest rank; nothing of it is trained.

    Args:
        config: config.json of the teacher.
    """
    load, asked = load_of(config, cfg.mesh), getattr(loss_of(cfg), "teacher_dtype", "auto")
    width = 4 if asked == "float32" or (asked == "auto" and cfg.dtype == "float32") else 2
    # what is frozen of the student has other names here
    whole = cfg.model_copy(update={"freeze": [], "unfrozen_parameters": []})
    size = size_of(whole, config, world, 1)._replace(
        trained=0.0, frozen_bytes=width * load.weights, optimizer_bytes=0.0, width=width, num_micros=1
    )
    return resolve(cfg.strategy).memory(size)


def teacher_forward_s(cfg: Any, config: dict[str, Any], device: Device, tokens: float, length: int, world: int) -> float:
    """Seconds of its forward passes over `tokens` tokens of a global batch."""
    kind = "float32" if cfg.dtype == "float32" else "bfloat16"
    peak = (device.bfloat16 / 2 if kind == "float32" else device.bfloat16) * 1e12
    return flops_per_token(config, length) / 3 * tokens / world / (peak * REACHED[kind])


def stored_answers(objective: Any, length: int, num_rows: int | None) -> list[str]:
    """Lines on what the pass over all rows keeps.

    Args:
        num_rows: where they are known.
    """
    each = bytes_per_token(objective.top_k) * length
    whole = f", {each * num_rows / 1e9:.2f} GB for {num_rows} rows" if num_rows else ""
    return [f"what the teacher says is stored ahead: {each / 1e6:.2f} MB a row at most{whole}"]


def teacher_workers(cfg: Any, objective: Any, config: dict[str, Any] | None, name: str) -> list[str]:
    """Lines on workers that hold the teacher.

    Args:
        config: config.json of the teacher, where it is known.

    Raises:
        PlanError: the device of one cannot hold it.
    """
    if config is None:
        return []
    spec = cfg.scorers or cfg.workers
    width = 4 if objective.teacher_dtype == "float32" or (objective.teacher_dtype == "auto" and cfg.dtype == "float32") else 2
    needed = width * model_spec(config).num_parameters()
    if spec.device and needed > device_of(spec.device).memory_gb * 1e9:
        raise PlanError(
            f"{name}: a scorer holds the teacher whole, {needed / 1e9:.1f} GB, {spec.device} has "
            f"{device_of(spec.device).memory_gb:g}",
            next='teacher_scores = "live" lays it over all ranks',
        )
    return [f"each of {spec.count} scorers holds the teacher whole, {needed / 1e9:.2f} GB"]
