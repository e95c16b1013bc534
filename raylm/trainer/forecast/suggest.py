"""Layouts that fit in memory for a number of ranks, fastest first. No torch."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

from raylm.model.model_spec import model_spec
from raylm.parallel.matrix import features, refusal, unproven
from raylm.parallel.mesh import Mesh
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.trainer.forecast.devices import Device
from raylm.trainer.forecast.memory import Memory, memory_of
from raylm.trainer.forecast.speed import Speed, speed_of
from raylm.trainer.forecast.teacher import teacher_forward_s, teacher_memory

SIZES = (1, 2, 4, 8, 16, 32, 64)
# share of a device's memory that a forecast may fill: allocators round, kernels need room of their own
FULL = 0.9
# a layout with one dimension more must be this much faster by forecast: it has smaller products and more that can go wrong
PLAIN = 0.04
# what a critic has of its stage's layout
LAID = ("mesh", "strategy", "activation_checkpointing")


class Layout(NamedTuple):
    """One way of laying a stage over ranks."""

    cfg: Any
    """The stage with this layout."""
    micro: int
    memory: Memory
    speed: Speed

    def as_toml(self) -> str:
        """The keys to paste into the job."""
        cfg = self.cfg
        mesh = {name: value for name, value in cfg.mesh.model_dump().items() if value != getattr(Mesh(), name)}
        strategy = {"kind": cfg.strategy.kind, **({"reshard": False} if not getattr(cfg.strategy, "reshard", True) else {})}
        lines = [f"strategy = {_table(strategy)}", *([f"mesh = {_table(mesh)}"] if mesh else []), f"micro_batch = {self.micro}"]
        return "\n".join(
            [
                *lines,
                *(
                    [f'activation_checkpointing = "{cfg.activation_checkpointing}"']
                    if cfg.activation_checkpointing != "none"
                    else []
                ),
            ]
        )


def layouts(
    cfg: Any,
    config: dict[str, Any],
    device: Device,
    *,
    length: int,
    batch: int,
    world: int,
    teacher: dict[str, Any] | None = None,
    critic: tuple[Any, dict[str, Any]] | None = None,
) -> list[Layout]:
    """Every layout that is proven, fits, and uses all ranks; fastest first, simpler ones before those that are hardly faster.

    Args:
        teacher: config.json of the model that answers beside the one that learns.
        critic: the stage as its critic is laid out by it, and that model's config.json.
    """
    found = []
    for one in _candidates(cfg, config, device, batch, world):
        for micro in sorted((size for size in SIZES if size <= _share(one, batch, world)), reverse=True):
            made = layout_of(
                one, config, device, length=length, batch=batch, micro=micro, world=world, teacher=teacher, critic=critic
            )
            if made.memory.total <= FULL * device.memory_gb * 1e9:
                found.append(made)
                break  # the largest micro batch that fits is the fastest
    return sorted(found, key=lambda made: (made.speed.step_s * (1 + PLAIN * _dimensions(made.cfg.mesh)), made.memory.total))


def layout_of(
    cfg: Any,
    config: dict[str, Any],
    device: Device,
    *,
    length: int,
    batch: float,
    micro: int,
    world: int,
    teacher: dict[str, Any] | None = None,
    critic: tuple[Any, dict[str, Any]] | None = None,
) -> Layout:
    """The forecast of one layout, whether it fits or not."""
    num_micros = max(1, round(batch / _data(cfg.mesh, world) / micro))
    memory = memory_of(cfg, config, length=length, micro=micro, world=world, num_micros=num_micros)
    speed = speed_of(cfg, config, device, length=length, batch=batch, micro=micro, world=world)
    if teacher:
        held = teacher_memory(cfg, teacher, world)
        memory = memory._replace(weights=memory.weights + held.weights, gathered=memory.gathered + held.gathered)
        speed = speed._replace(compute_s=speed.compute_s + teacher_forward_s(cfg, teacher, device, batch * length, length, world))
    if critic:
        # it lies over the same ranks in the same way
        own = critic[0].model_copy(update={name: getattr(cfg, name) for name in LAID})
        held = memory_of(own, critic[1], length=length, micro=micro, world=world, num_micros=num_micros)
        memory = _beside(memory, held)
        learns = speed_of(own, critic[1], device, length=length, batch=batch, micro=micro, world=world)
        speed = speed._replace(
            # it says its values before it learns
            compute_s=speed.compute_s + learns.compute_s * 4 / 3,
            communication_s=speed.communication_s + learns.communication_s,
            bubble_s=speed.bubble_s + learns.bubble_s,
        )
    return Layout(cfg, micro, memory, speed)


def _beside(memory: Memory, critic: Memory) -> Memory:
    """Both models on a rank: their weights and moments stay, what a step makes goes before the other's begins."""
    return memory._replace(
        weights=memory.weights + critic.weights,
        optimizer=memory.optimizer + critic.optimizer,
        gradients=max(memory.gradients, critic.gradients),
        gathered=max(memory.gathered, critic.gathered),
        activations=max(memory.activations, critic.activations),
        working=max(memory.working, critic.working),
        loading=memory.loading + critic.weights,
    )


def _candidates(cfg: Any, config: dict[str, Any], device: Device, batch: int, world: int) -> Iterator[Any]:
    heads = config["num_attention_heads"]
    kv, layers = config.get("num_key_value_heads") or heads, config["num_hidden_layers"]
    experts = config.get("num_experts") or config.get("n_routed_experts") or 1
    shared = any(m.used is not None and m.stored > m.passes for m in model_spec(config).matrices)
    for tensor in (size for size in SIZES if size <= device.per_machine and heads % size == kv % size == 0):
        for pipeline in (size for size in SIZES if size <= layers):
            for context in (size for size in SIZES if size <= heads):
                for expert in SIZES if shared else (1,):
                    for strategy in (Ddp(), Fsdp(reshard=False), Fsdp()):
                        for activation_checkpointing in ("none", "selective", "full"):
                            mesh = Mesh(tensor=tensor, pipeline=pipeline, context=context, expert=expert)
                            if mesh.refused(world) or experts % expert or _data(mesh, world) > batch:
                                continue
                            update = {"mesh": mesh, "strategy": strategy, "activation_checkpointing": activation_checkpointing}
                            one = cfg.model_copy(update=update)
                            combined = features(one)
                            if not refusal(combined) and not unproven(combined):
                                yield one


def _share(cfg: Any, batch: int, world: int) -> int:
    """Rows that one data rank reads of a batch; of a pipeline a quarter of them per stage, so that it fills."""
    rows = max(1, batch // _data(cfg.mesh, world))
    return max(1, rows // (4 * cfg.mesh.pipeline)) if cfg.mesh.pipeline > 1 else rows


def _data(mesh: Mesh, world: int) -> int:
    return world // (mesh.tensor * mesh.pipeline * mesh.context)


def _dimensions(mesh: Mesh) -> int:
    return sum(size > 1 for size in (mesh.tensor, mesh.pipeline, mesh.context, mesh.expert))


def _table(values: dict[str, Any]) -> str:
    parts = (f"{k} = {str(v).lower() if isinstance(v, bool) else repr(v) if not isinstance(v, str) else chr(34) + v + chr(34)}"
             for k, v in values.items())  # fmt: skip
    return "{" + ", ".join(parts) + "}"
