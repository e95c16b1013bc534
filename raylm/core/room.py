"""Cluster capacity: whether a cluster can hold the processes of a stage, their placement, and the message of a wait."""

from __future__ import annotations

import sys
import time
from typing import Any, NamedTuple

from raylm.core.config import WorkerSpec
from raylm.core.errors import PlacementError

SAY_S = 20.0
"""Seconds of a wait before it says what it waits for; the next words come after twice the time, up to `SELDOM_S`."""
SELDOM_S = 600.0
QUEUE_S = 24 * 3600.0
"""Seconds that a stage waits for other jobs of a shared cluster to make room."""

Parts = dict[str, WorkerSpec]
"""Processes by their part in a stage (ranks, generator, workers): those that must run at the same time."""
Resources = dict[str, float]


class Patience:
    """Prints what a wait waits for, when it is long: a wait without a word looks like a hang.

    Args:
        what: who waits.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self.again()

    def again(self) -> None:
        """What was waited for came; another wait begins."""
        self._began, self._say_at = time.monotonic(), SAY_S

    @property
    def is_long(self) -> bool:
        """Whether it is time to speak."""
        return time.monotonic() - self._began >= self._say_at

    def look(self, parts: Parts, also: str = "") -> None:
        """Speak, if it is time, of what `parts` ask for and what the cluster has free."""
        if self.is_long:
            waited = time.monotonic() - self._began
            self._say_at = min(2 * self._say_at, self._say_at + SELDOM_S)
            print(f"  {self._what} {shortage(parts)}{also} ({waited:.0f} s)", file=sys.stderr, flush=True)


class Reservation:
    """Places for all parts of a stage on a cluster that others use too, had all at once or not at all.

    Two jobs that each held some of what they need would wait for the rest of it from each other, for ever.

    Args:
        parts: bundles lie in their order, `count` for each part.
        what: who reserves, for the words of the wait.

    Raises:
        PlacementError: there was no room for `QUEUE_S`.
    """

    def __init__(self, parts: Parts, what: str) -> None:
        from ray.util.placement_group import placement_group, remove_placement_group

        self.parts = parts
        self.group = placement_group([asks(spec) for spec in parts.values() for _ in range(spec.count)], strategy="PACK")
        patience, until = Patience(what), time.monotonic() + QUEUE_S
        while not self.group.wait(1.0):
            patience.look(parts)
            if time.monotonic() > until:
                remove_placement_group(self.group)
                raise PlacementError(f"{what} {shortage(parts)} since {QUEUE_S:.0f} s", next="run it when the cluster has room")

    def has(self, part: str, spec: WorkerSpec) -> bool:
        """Whether `part` has places here, of the size that `spec` asks for."""
        return part in self.parts and _size(self.parts[part]) == _size(spec)

    def strategy(self, part: str, place: int = 0) -> Any:
        """Where Ray puts the process of `part` that has this `place` among its `count`."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        first = sum(spec.count for spec in list(self.parts.values())[: list(self.parts).index(part)])
        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=first + place)

    def end(self) -> None:
        """Give the places back; what still runs in them is ended."""
        from ray.util.placement_group import remove_placement_group

        remove_placement_group(self.group)


class Node(NamedTuple):
    """A machine of the cluster, and what of a resource it has."""

    address: str
    has: Resources


def nodes() -> list[Node]:
    """The machines that are alive."""
    import ray

    return [Node(node["NodeManagerAddress"], node["Resources"]) for node in ray.nodes() if node["Alive"]]


def refusal(parts: Parts, what: str) -> PlacementError | None:
    """Why the cluster can never hold all of `parts` at once, with what was asked and what there is; None when it can."""
    there = nodes()
    for name in ("CPU", "GPU"):
        need, has = _total(parts, name), sum(node.has.get(name, 0.0) for node in there)
        if need > has + 1e-6:
            return PlacementError(
                f"{what} asks for {need:g} {name} at once ({_of(parts, name)}), the whole cluster has {has:g}",
                next="lower the `workers` table (or `generator`, or `replicas`), or start a larger cluster",
            )
    if fits([node.has for node in there], [(asks(spec), spec.count) for spec in parts.values()]):
        return None
    asked = "; ".join(f"{part}: {spec.count} x {_words(asks(spec))}" for part, spec in parts.items())
    return PlacementError(
        f"{what} has no place on these nodes: a process lies on one node ({asked}), and they have "
        + "; ".join(f"{node.address}: {_words(node.has) or 'neither CPU nor GPU'}" for node in there),
        next="lower workers.cpus or workers.gpus to what one node has, or start larger nodes",
    )


def shortage(parts: Parts) -> str:
    """`waits for 3 CPUs (2 ranks, 1 generator): 1 of 4 CPU free`."""
    needs = [(name, _total(parts, name)) for name in ("CPU", "GPU")]
    asked = " and ".join(f"{need:g} {name}{'s' if need != 1 else ''} ({_of(parts, name)})" for name, need in needs if need)
    return f"waits for {asked}: {free()}"


def is_short(parts: Parts) -> bool:
    """Whether less is free than `parts` ask for."""
    import ray

    has = ray.available_resources()
    return any(_total(parts, name) > has.get(name, 0.0) + 1e-6 for name in ("CPU", "GPU"))


def free() -> str:
    """`1 of 4 CPU free`, GPUs where there are any."""
    import ray

    has, total = ray.available_resources(), ray.cluster_resources()
    return ", ".join(f"{has.get(name, 0.0):g} of {total[name]:g} {name} free" for name in ("CPU", "GPU") if name in total)


def fits(there: list[Resources], kinds: list[tuple[Resources, int]]) -> bool:
    """Whether processes, `count` of each kind, can lie on nodes that have `there`, each on one."""
    (ask, count), *others = sorted(kinds, key=lambda kind: kind[1]) or [({}, 0)]
    if not others:
        return sum(_times(node, ask, count) for node in there) >= count
    tried: list[Resources] = []
    for at, node in enumerate(there):
        if node in tried or not _times(node, ask, 1):
            continue
        tried.append(node)
        left = {name: value - ask.get(name, 0.0) for name, value in node.items()}
        if fits([*there[:at], left, *there[at + 1 :]], [*([(ask, count - 1)] if count > 1 else []), *others]):
            return True
    return False


def asks(spec: WorkerSpec) -> Resources:
    """What one process reserves."""
    return {name: value for name, value in (("CPU", spec.cpus), ("GPU", spec.gpus)) if value}


def _times(node: Resources, ask: Resources, most: int) -> int:
    return min([int((node.get(name, 0.0) + 1e-6) // value) for name, value in ask.items()], default=most)


def _size(spec: WorkerSpec) -> tuple[int, float, float]:
    return spec.count, spec.cpus, spec.gpus


def _total(parts: Parts, name: str) -> float:
    return sum(spec.count * asks(spec).get(name, 0.0) for spec in parts.values())


def _of(parts: Parts, name: str) -> str:
    return ", ".join(f"{spec.count} {part}" for part, spec in parts.items() if asks(spec).get(name))


def _words(has: Resources) -> str:
    return " and ".join(f"{has[name]:g} {name}" for name in ("CPU", "GPU") if has.get(name))
