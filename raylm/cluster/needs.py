"""What a job needs of a cluster, stage by stage, from the roles that its stages name. Starts nothing."""

from __future__ import annotations

from typing import NamedTuple

from raylm.core.config import Role
from raylm.core.errors import PlanError
from raylm.core.room import peak
from raylm.job import Job, Step
from raylm.trainer.forecast.devices import device_of


class StageNeed(NamedTuple):
    """What one stage holds at its fullest."""

    stage: str
    verb: str
    roles: dict[str, Role]
    cpus: float
    """Cores of all roles of the fullest phase."""
    cpus_without_gpu: float
    """Cores of the processes that hold no GPU, in the phase in which these are most: they may stand anywhere."""
    cpus_with_gpu: float
    """Cores of the processes that hold one, in the phase in which these are most: they stand beside their GPUs."""
    gpus: float
    device: str
    """Kind of GPU, "" where the stage does not say or needs none."""
    nodes: int
    """Machines over which the stage wants its processes spread; 0 where it does not say."""
    spot: bool
    """It goes on where it was when a machine is taken away."""


def needs(job: Job, steps: list[Step]) -> list[StageNeed]:
    """Needs of the stages that are not made yet, in running order.

    Raises:
        ConfigError: a stage names a device that is not known.
    """
    return [_need(job, step.name) for step in steps if step.state != "ready"]


def _need(job: Job, name: str) -> StageNeed:
    cfg = job.stages[name]
    roles = cfg.roles()
    top, plain = peak(roles), {each: role for each, role in roles.items() if not role.gpus}
    with_gpu = {each: role for each, role in roles.items() if role.gpus}
    device = cfg.workers.device or ""
    if device:
        device_of(device)
    return StageNeed(
        stage=name,
        verb=cfg.stage,
        roles=roles,
        cpus=top["CPU"],
        cpus_without_gpu=peak(plain)["CPU"] if plain else 0.0,
        cpus_with_gpu=peak(with_gpu)["CPU"] if with_gpu else 0.0,
        gpus=top["GPU"],
        device=device if top["GPU"] else "",
        nodes=max((role.nodes or 0 for role in roles.values()), default=0),
        spot=cfg.spot,
    )


def only_device(found: list[StageNeed]) -> str:
    """The one kind of GPU that a job needs; "" where no stage says one.

    Raises:
        PlanError: its stages ask for several kinds: one cluster of equal machines cannot hold them.
    """
    kinds = {need.device: need.stage for need in found if need.device}
    if len(kinds) > 1:
        told = ", ".join(f"{stage}: {kind}" for kind, stage in kinds.items())
        raise PlanError(f"stages ask for several kinds of GPU ({told})", next="render them apart: --only STAGE")
    return next(iter(kinds), "")
