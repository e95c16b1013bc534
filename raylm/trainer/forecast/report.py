"""The forecast of a training stage as lines of `raylm plan`. No torch.

Raises PlanError for what cannot fit the device that the stage names.
"""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.core.errors import PlanError
from raylm.model.flops import flops_per_token
from raylm.model.model_spec import FAMILIES, model_spec
from raylm.trainer.forecast.devices import Device, device_of
from raylm.trainer.forecast.load import reference_bytes
from raylm.trainer.forecast.suggest import FULL, SIZES, Layout, layout_of, layouts
from raylm.trainer.forecast.teacher import teacher_memory


class Known(NamedTuple):
    """What a forecast needs to know beside the stage."""

    config: dict[str, Any]
    """config.json of the model."""
    length: int
    """Tokens of the longest row."""
    batch: int
    """Rows of the global batch."""
    steps: int | None
    """Steps of the run, where they are known before the rows are."""
    teacher: dict[str, Any] | None = None
    """config.json of the model that answers beside the one that learns."""
    critic: tuple[Any, dict[str, Any]] | None = None
    """The stage as its critic is laid out by it, and that model's config.json."""


def forecast(cfg: Any, known: Known, name: str, priced: bool = True) -> list[str]:
    """Parameters, FLOPs, memory per rank; with `workers.device` also speed, hours and cost.

    Args:
        priced: the ranks are all that the stage pays for.

    Raises:
        PlanError: the layout needs more than the device has.
    """
    if known.config.get("model_type") not in FAMILIES or known.config["model_type"] in ("bert", "t5"):
        return []
    parts = model_spec(known.config)
    each = flops_per_token(known.config, known.length)
    active = parts.num_active_parameters()
    met = f" ({_count(active)} met by a token)" if active < parts.num_parameters() else ""
    lines = [f"{_count(parts.num_parameters())} parameters{met}, {_count(each)} FLOPs per token"]
    if known.steps:
        tokens = known.steps * known.batch * known.length
        lines[0] += f", {_count(tokens)} tokens at most, {_count(each * tokens)} FLOPs"
    device = device_of(cfg.workers.device) if cfg.workers.device else None
    made = laid_out(cfg, known)
    lines.append(_memory(made))
    if known.teacher:
        held = teacher_memory(cfg, known.teacher, cfg.workers.count).weights / 1e9
        whole = model_spec(known.teacher).num_parameters()
        lines.append(f"of that {held:.2f} GB are of the teacher, {_count(whole)} parameters")
    if known.critic:
        alone = laid_out(cfg, known._replace(critic=None)).memory
        held = made.memory.weights + made.memory.optimizer - alone.weights - alone.optimizer
        lines.append(f"of that {held / 1e9:.2f} GB are of the critic, weights and optimizer")
    if held := reference_bytes(cfg, known.config, cfg.workers.count):
        lines.append(f"of that {held / 1e9:.2f} GB are of the reference")
    if device is None:
        return lines
    # of a GPU that a rank shares with another process it has its part alone
    share = min(1.0, cfg.workers.gpus or 1.0)
    if made.memory.total > share * device.memory_gb * 1e9:
        part = f", of which {share:g} is a rank's" if share < 1 else ""
        raise PlanError(
            f"{name} needs {made.memory.total / 1e9:.1f} GB on each of {cfg.workers.count} ranks, "
            f"{cfg.workers.device} has {device.memory_gb:g} GB{part} ({_memory(made)})",
            next=f"raylm plan JOB --suggest {name}",
        )
    return [*lines, _speed(made, device, known.steps if priced else None)]


def suggestions(cfg: Any, known: Known, most: int = 5) -> list[tuple[str, str]]:
    """The fastest layouts as (what is forecast, TOML to paste).

    Raises:
        PlanError: the stage names no device, or nothing fits; it says by how much the closest misses.
    """
    if not cfg.workers.device:
        raise PlanError("--suggest needs to know the device", next='workers = {count = 8, gpus = 1, device = "h100"}')
    device, world = device_of(cfg.workers.device), cfg.workers.count
    size = {"length": known.length, "batch": known.batch, "world": world, "teacher": known.teacher, "critic": known.critic}
    found = layouts(cfg, known.config, device, **size)
    if not found:
        closest = layout_of(
            cfg.model_copy(update={"activation_checkpointing": "full"}),
            known.config,
            device,
            micro=1,
            **size,
        )
        raise PlanError(
            f"no layout fits {world} x {cfg.workers.device}: one row at a time with full activation checkpointing still needs "
            f"{closest.memory.total / 1e9:.1f} GB of {device.memory_gb:g}",
            next="more ranks, shorter rows, an 8-bit optimizer, an adapter, or a smaller model",
        )
    return [(f"{_speed(made, device, known.steps)}; {_memory(made)}", made.as_toml()) for made in found[:most]]


def laid_out(cfg: Any, known: Known) -> Layout:
    """The stage's own layout; `micro_batch = "auto"` is the largest that fits the device."""
    device = device_of(cfg.workers.device) if cfg.workers.device else None
    sizes = [cfg.micro_batch] if isinstance(cfg.micro_batch, int) else sorted(SIZES, reverse=True)
    any_device = device or device_of("h100")
    made = None
    for micro in sizes:
        rows = max(1, known.batch // max(1, cfg.workers.count // (cfg.mesh.tensor * cfg.mesh.pipeline * cfg.mesh.context)))
        size = min(micro, rows)
        made = layout_of(
            cfg,
            known.config,
            any_device,
            length=known.length,
            batch=known.batch,
            micro=size,
            world=cfg.workers.count,
            teacher=known.teacher,
            critic=known.critic,
        )
        if device is None or made.memory.total <= FULL * device.memory_gb * 1e9:
            break
    assert made is not None
    return made


def _memory(made: Layout) -> str:
    parts = (
        f"{name} {value / 1e9:.2f}"
        for name, value in made.memory._asdict().items()
        if isinstance(value, float) and value >= 0.02 * made.memory.total
    )
    return f"{made.memory.total / 1e9:.2f} GB per rank at micro_batch {made.micro}: {', '.join(parts)}"


def _speed(made: Layout, device: Device, steps: int | None) -> str:
    speed = made.speed
    line = f"{speed.step_s:.3g} s per step, {_count(speed.tokens_per_s)} tokens/s, MFU {speed.mfu(device):.0%}"
    for name, part in (("communication", speed.communication_s), ("bubble", speed.bubble_s)):
        if part > 0.005 * speed.step_s:
            line += f", {name} {part / speed.step_s:.0%}"
    if steps:
        hours = speed.step_s * steps / 3600
        line += f"; {hours:.3g} h, about ${hours * speed.world * device.price_h:,.0f}"
    return line


def _count(number: float) -> str:
    for power, name in ((24, "Y"), (21, "Z"), (18, "E"), (15, "P"), (12, "T"), (9, "B"), (6, "M"), (3, "k")):
        if number >= 10**power:
            return f"{number / 10**power:.3g} {name}"
    return f"{number:.0f}"
