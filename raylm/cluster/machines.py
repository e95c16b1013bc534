"""Machines that hold what a job needs: equal ones with GPUs, and one without for the rest.

The arithmetic of `raylm plan --cluster` and of every spec that is rendered.
"""

from __future__ import annotations

import math
from typing import NamedTuple

from raylm.cluster.needs import StageNeed, only_device
from raylm.trainer.forecast.devices import Device, device_of

HEAD_CPUS = 2
"""Cores for Ray's own processes and the driver, beside what stages reserve."""
MOST_CPUS = 64
"""Cores of one machine without GPUs, at most; more cores are several machines."""
CPUS_PER_GPU = 4
"""Cores beside each GPU, at least: its process, the loader of its rows, Ray."""
GB_PER_CPU = 4
DISK_GB, GPU_DISK_GB = 100, 300
"""Packages, Ray's session and what it spills, a local copy of weights."""
PER_MACHINE = 8
"""GPUs of one machine where no device is named."""
SIZES = (1, 2, 4, 8)
"""Numbers of GPUs that machines come with."""


class Pool(NamedTuple):
    """Equal machines."""

    name: str
    """head, gpu, cpu or spread. The first machine of a job's first pool is Ray's head."""
    count: int
    cpus: int
    memory_gb: int
    disk_gb: int
    gpus: int = 0
    """Of each machine."""
    device: str = ""
    spot: bool = False
    """Every stage that runs here goes on after a machine was taken away."""
    stages: tuple[str, ...] = ()

    @property
    def price_h(self) -> float | None:
        """US dollars per hour of the GPUs; None where there are none, or of an unknown kind."""
        return self.count * self.gpus * device_of(self.device).price_h if self.gpus and self.device else None


def pools(found: list[StageNeed]) -> list[Pool]:
    """Machines for all stages, one after the other.

    Raises:
        PlanError: the stages ask for GPUs of several kinds.
    """
    device = only_device(found)
    gpu = _gpu_pool([need for need in found if need.gpus], device_of(device) if device else None, device)
    plain = max((need.cpus_without_gpu if need.gpus else need.cpus for need in found), default=0.0)
    spread = max((need.nodes for need in found if not need.gpus), default=0)
    if gpu is None:
        return _plain_pools(plain, spread, found)
    if gpu.count == 1:
        # one machine is the whole cluster: what needs no GPU stands beside it
        made = [_sized(gpu, gpu.cpus + math.ceil(plain) + HEAD_CPUS)]
    else:
        made = [_plain("head", 1, min(math.ceil(plain), MOST_CPUS) + HEAD_CPUS, found), gpu, *_overflow(plain, found)]
    if (missing := spread - sum(pool.count for pool in made)) > 0:
        # a stage without GPUs wants its processes on more machines than those with GPUs are
        made.append(_plain("spread", missing, math.ceil(plain / spread), found))
    return made


def one_pool(found: list[StageNeed]) -> Pool:
    """The same as equal machines alone, for schedulers that know no others: the head stands on one of them."""
    made = pools(found)
    gpu = next((pool for pool in made if pool.gpus), None)
    spot = all(need.spot for need in found)
    if gpu is None:
        return made[0]._replace(count=sum(pool.count for pool in made), cpus=max(pool.cpus for pool in made), spot=spot)
    plain = sum(pool.count * pool.cpus for pool in made if not pool.gpus)
    count = max(gpu.count, *(need.nodes for need in found))
    return _sized(gpu, gpu.cpus + math.ceil(plain / count))._replace(count=count, spot=spot)


def _gpu_pool(found: list[StageNeed], device: Device | None, name: str) -> Pool | None:
    if not found:
        return None
    most = device.per_machine if device else PER_MACHINE
    whole = max(_whole(need) for need in found)
    spread = max(need.nodes for need in found)
    count = max(math.ceil(whole / most), spread, 1)
    each = next((size for size in SIZES if size * count >= whole and size <= most), most)
    reserved = max(need.cpus_with_gpu for need in found)
    cpus = max(math.ceil(reserved / count) + HEAD_CPUS, CPUS_PER_GPU * each)
    memory = max(GB_PER_CPU * cpus, math.ceil((device.memory_gb if device else 80) * each))
    spot, stages = all(need.spot for need in found), tuple(need.stage for need in found)
    return Pool("gpu", count, cpus, memory, GPU_DISK_GB, each, name, spot, stages)


def _whole(need: StageNeed) -> int:
    """GPUs that the stage's processes take when none of them is split over two machines' GPUs: parts of one add up."""
    return math.ceil(need.gpus - 1e-9)


def _plain_pools(cpus: float, spread: int, found: list[StageNeed]) -> list[Pool]:
    wanted = math.ceil(cpus) + HEAD_CPUS
    count = max(math.ceil(wanted / MOST_CPUS), spread, 1)
    return [_plain("head", count, math.ceil(wanted / count), found)]


def _overflow(cpus: float, found: list[StageNeed]) -> list[Pool]:
    more = math.ceil(cpus) - MOST_CPUS
    if more <= 0:
        return []
    count = math.ceil(more / MOST_CPUS)
    return [_plain("cpu", count, math.ceil(more / count), found)]


def _plain(name: str, count: int, cpus: int, found: list[StageNeed]) -> Pool:
    held = tuple(need.stage for need in found if not need.gpus or need.cpus_without_gpu)
    spot = name != "head" and all(need.spot for need in found)
    return Pool(name, count, cpus, GB_PER_CPU * cpus, DISK_GB, spot=spot, stages=held)


def _sized(pool: Pool, cpus: int) -> Pool:
    return pool._replace(cpus=cpus, memory_gb=max(pool.memory_gb, GB_PER_CPU * cpus))
