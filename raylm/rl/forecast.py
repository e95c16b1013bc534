"""What `raylm plan` says of the roles of an rl stage beside its trainer: memory of engines, seconds and price of an iteration.
No torch."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import PlanError
from raylm.core.room import peak
from raylm.inference.config import MEMORY_SHARE
from raylm.model.model_spec import FAMILIES
from raylm.rl.config import RL
from raylm.trainer.forecast.devices import Device, device_of
from raylm.trainer.forecast.generation import EngineMemory, Generation, engine_memory, generation_of
from raylm.trainer.forecast.report import Known, laid_out
from raylm.trainer.forecast.speed import LINK


def forecast_roles(cfg: RL, known: Known, name: str) -> list[str]:
    """Lines on generators, and on an iteration as a whole; none where they use no GPU, or no device is named.

    Raises:
        PlanError: an engine cannot hold the policy and one sequence.
    """
    spec, kind, config, length = cfg.generator, cfg.workers.device, known.config, known.length
    if config.get("model_type") not in FAMILIES or not spec.gpus or kind is None:
        return []
    device, width = device_of(kind), 4 if cfg.dtype == "float32" else 2
    memory = engine_memory(config, device, spec.memory_share, width, spec.tensor_parallel)
    _check(cfg, memory, device, kind, length, name)
    at_once = memory.sequences(length)
    each = f"each {'GPU ' if spec.tensor_parallel > 1 else ''}of {spec.count} generators"
    lines = [
        f"{each}: {memory.weights / 1e9:.1f} GB of weights, {memory.working / 1e9:.1f} to compute, "
        f"{memory.cache / 1e9:.1f} for keys and values: {_count(memory.tokens)} tokens, {at_once} sequences of {length} at once"
    ]
    made = _generated(cfg, config, device, memory, length)
    if made is None:
        return lines
    update_s = laid_out(cfg, known).speed.step_s * getattr(cfg, "epochs", 1)
    return [*lines, _iteration(cfg, made, update_s, memory.weights * memory.tensor, device)]


def forecast_reward(card: Any, config: dict[str, Any], kind: str, length: int, where: str) -> str:
    """A line on a reward that holds a model on a role of its own.

    Args:
        config: config.json of its model.
        kind: of GPU.
        length: tokens of the longest prompt and its completion.

    Raises:
        PlanError: a process of it cannot hold the model.
    """
    device, role = device_of(kind), card.role()
    width = 4 if getattr(card, "dtype", "auto") == "float32" else 2
    share = MEMORY_SHARE * min(1.0, role.gpus)
    memory = engine_memory(config, device, share, width)
    if memory.sequences(length) < 1:
        needs = f"{memory.weights / 1e9:.1f} GB for weights and {memory.working / 1e9:.1f} to compute"
        raise PlanError(
            f"{where}: a process has {share * device.memory_gb:.1f} GB of {kind}, it needs {needs}",
            next="a device with more memory, or a smaller model",
        )
    return f"{where}: {role.count} x {memory.weights / 1e9:.1f} GB of weights, {memory.working / 1e9:.1f} to compute"


def _check(cfg: RL, memory: EngineMemory, device: Device, kind: str, length: int, name: str) -> None:
    spec = cfg.generator
    if spec.gpus > spec.tensor_parallel:
        raise PlanError(
            f"{name}: generator.gpus = {spec.gpus:g}, its engine is on {spec.tensor_parallel} of them",
            next=f"generator.tensor_parallel = {spec.gpus:g}, or gpus = 1 and more `count`",
        )
    if memory.sequences(length) < 1:
        has, one = spec.memory_share * device.memory_gb, memory.per_token * length
        needs = f"{memory.weights / 1e9:.1f} for weights, {memory.working / 1e9:.1f} to compute"
        raise PlanError(
            f"{name}: a generator has {has:.1f} GB of {kind}, it needs {needs} and {one / 1e9:.2f} for a row of {length}",
            next="generator.tensor_parallel, a larger device, dtype = 'bfloat16', a lower max_tokens, or a smaller model",
        )


def _generated(cfg: RL, config: dict[str, Any], device: Device, memory: EngineMemory, length: int) -> Generation | None:
    """All completions of an iteration, at their longest."""
    each = getattr(cfg.algorithm, "num_generations", None)
    if not each:
        return None
    prompts = cfg.prompts_per_iteration / cfg.generator.count
    return generation_of(
        config,
        device,
        memory,
        prompts=prompts,
        each=each,
        prompt_length=length - cfg.max_tokens,
        completion_length=cfg.max_tokens,
    )


def _iteration(cfg: RL, made: Generation, update_s: float, weights: float, device: Device) -> str:
    sync_s = weights / (device.inter_gb_s * 1e9 * LINK)
    # what overlaps costs the longer of the two
    overlaps = getattr(cfg, "max_staleness", 0) > 0
    seconds = sync_s + (max(made.seconds, update_s) if overlaps else made.seconds + update_s)
    gpus, hours = peak(cfg.roles())["GPU"], seconds * cfg.iterations / 3600
    idle = 1 - (made.seconds * cfg.generator.count + update_s * cfg.workers.count) / (seconds * gpus)
    return (
        f"an iteration {seconds:.3g} s at most: generation {made.seconds:.3g}, update {update_s:.3g}, weights {sync_s:.3g}; "
        f"{max(0.0, idle):.0%} of the GPUs' time idle; {cfg.iterations} iterations {hours:.3g} h on {gpus:g} GPUs, "
        f"about ${hours * gpus * device.price_h:,.0f}"
    )


def _count(number: float) -> str:
    return f"{number / 1e6:.3g} M" if number >= 1e6 else f"{number / 1e3:.3g} k" if number >= 1e3 else f"{number:.0f}"
