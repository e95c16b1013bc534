"""Cluster capacity: whether a cluster can hold the processes of a stage, their placement, and the message of a wait."""

from __future__ import annotations

import os
import sys
import time
from typing import Any, NamedTuple

from raylm.core.coming import NodeGroup, node_groups
from raylm.core.config import Role
from raylm.core.errors import PlacementError

SAY_S = 20.0
"""Seconds of a wait before it says what it waits for; the next words come after twice the time, up to `SELDOM_S`."""
SELDOM_S = 600.0
QUEUE_S = 24 * 3600.0
"""Seconds that a stage waits for other jobs of a shared cluster to make room."""

# a job that was submitted to a cluster finds its address here; Ray sets it for the driver of `ray job submit`
SUBMITTED = "RAY_JOB_CONFIG_JSON_ENV_VAR"

Roles = dict[str, Role]
"""The parties of a stage by name (ranks, generator, workers)."""
Resources = dict[str, float]


class Places(NamedTuple):
    """Bundles of a placement group that one role has: `first`, `first` + 1, ..."""

    group: Any
    first: int


def phases(roles: Roles) -> list[Roles]:
    """Roles that must be there at the same time, for each phase, at the numbers of processes with which the stage can begin."""
    found: dict[int, Roles] = {}
    for name, role in roles.items():
        found.setdefault(role.phase, {})[name] = role.model_copy(update={"count": role.least or role.count})
    return [found[phase] for phase in sorted(found)]


def peak(roles: Roles) -> Resources:
    """CPU and GPU that a stage holds at its fullest phase, with all processes."""
    by_phase: dict[int, Roles] = {}
    for name, role in roles.items():
        by_phase.setdefault(role.phase, {})[name] = role
    return {what: max(_total(each, what) for each in by_phase.values()) for what in ("CPU", "GPU")}


def total(roles: Roles) -> float:
    """CPU cores of all roles: what stays from one phase to the next holds its own."""
    return _total(roles, "CPU")


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

    def look(self, roles: Roles, also: str = "") -> None:
        """Speak, if it is time, of what `roles` ask for and what the cluster has free."""
        if self.is_long:
            waited = time.monotonic() - self._began
            self._say_at = min(2 * self._say_at, self._say_at + SELDOM_S)
            told = f"{self._what} {shortage(roles)}{_held()}{_coming(roles, self._what)}{also} ({waited:.0f} s)"
            print(f"  {told}", file=sys.stderr, flush=True)


class Reservation:
    """Places for all roles of a stage on a cluster that others use too, had all at once or not at all.

    Two jobs that each held some of what they need would wait for the rest of it from each other, for ever.

    Args:
        roles: bundles lie in their order, `count` for each of them.
        what: who reserves, for the words of the wait.

    Raises:
        PlacementError: there was no room for `QUEUE_S`.
    """

    def __init__(self, roles: Roles, what: str) -> None:
        from ray.util.placement_group import placement_group, remove_placement_group

        self.roles = roles
        spread = any((role.nodes or 1) > 1 for role in roles.values())
        bundles = [asks(role) for role in roles.values() for _ in range(role.count)]
        self.group = placement_group(bundles, strategy="SPREAD" if spread else "PACK")
        patience, until = Patience(what), time.monotonic() + QUEUE_S
        while not self.group.wait(1.0):
            patience.look(roles)
            if time.monotonic() > until:
                remove_placement_group(self.group)
                told = f"{what} {shortage(roles)}{_held()} since {QUEUE_S:.0f} s"
                raise PlacementError(told, next="run it when the cluster has room; raylm jobs, raylm stop NAME")

    def has(self, name: str, role: Role) -> bool:
        """Whether the role `name` has places here, of the size that `role` asks for."""
        return name in self.roles and _size(self.roles[name]) == _size(role)

    def places(self, name: str) -> Places:
        """The bundles of the role `name`."""
        return Places(self.group, sum(role.count for role in list(self.roles.values())[: list(self.roles).index(name)]))

    def strategy(self, name: str, number: int = 0) -> Any:
        """Where Ray puts process `number` of the role `name`."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return PlacementGroupSchedulingStrategy(self.group, placement_group_bundle_index=self.places(name).first + number)

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


def refusal(roles: Roles, what: str, there: list[Node] | None = None) -> PlacementError | None:
    """Why the cluster can never hold the roles of one of the phases, with what was asked and what there is; None when it can.

    Args:
        there: machines of the cluster; where none are given those of the cluster that this process has joined, and those that
            may come to it.
    """
    here = nodes() if there is None else there
    error = _first(roles, what, here)
    if error is None or there is not None or not node_groups():
        return error
    if error := _first(roles, what, brought(here)):
        return PlacementError(f"{error.what}, with all that may come", next=error.next)
    return None


def _first(roles: Roles, what: str, there: list[Node]) -> PlacementError | None:
    return next(filter(None, (_refusal(together, what, there) for together in phases(roles))), None)


def brought(there: list[Node]) -> list[Node]:
    """The cluster when its autoscaler has brought all that it may (`raylm.core.coming`)."""
    groups = node_groups()
    others, left = [], [group.most for group in groups]
    for node in there:
        # what has come already is one of a group; more of its kind than a group has stand here anyway
        at = next((at for at, group in enumerate(groups) if left[at] and _is_of(node, group)), None)
        if at is None:
            others.append(node)
        else:
            left[at] -= 1
    return [*others, *(Node("a machine that may come", group.has) for group in groups for _ in range(group.most))]


def _is_of(node: Node, group: NodeGroup) -> bool:
    return all(node.has.get(name, 0.0) == group.has.get(name, 0.0) for name in ("CPU", "GPU"))


def waits_for_autoscaler(roles: Roles, what: str) -> str:
    """`x asks for 8 GPU ..., the whole cluster has 0: waits for its autoscaler`; "" where it needs no more than there is."""
    error = _first(roles, what, nodes()) if node_groups() else None
    told = ", ".join(f"{group.most} x {_words(group.has)}" for group in node_groups())
    return f"{error.what}: waits for its autoscaler, which may bring {told}" if error else ""


def _coming(roles: Roles, what: str) -> str:
    return "; its autoscaler must bring more" if waits_for_autoscaler(roles, what) else ""


def _held() -> str:
    """`; held by ...`, on a cluster that others use too."""
    from raylm.core.holders import holders

    said = holders() if SUBMITTED in os.environ else ""
    return f"; {said}" if said else ""


def _refusal(roles: Roles, what: str, there: list[Node]) -> PlacementError | None:
    for name in ("CPU", "GPU"):
        need, has = _total(roles, name), sum(node.has.get(name, 0.0) for node in there)
        if need > has + 1e-6:
            return PlacementError(
                f"{what} asks for {need:g} {name} at once ({_of(roles, name)}), the whole cluster has {has:g}",
                next="lower the `workers` table (or `generator`, or `replicas`), or start a larger cluster",
            )
    for name, role in roles.items():
        able = sum(_times(node.has, asks(role), 1) >= 1 for node in there)
        if role.nodes and able < role.nodes:
            return PlacementError(
                f"{what} asks for {role.nodes} machines for its {name}, {able} of this cluster could hold one of them",
                next="lower workers.nodes, or start a larger cluster",
            )
    if fits([node.has for node in there], [(asks(role), role.count) for role in roles.values()]):
        return None
    asked = "; ".join(f"{name}: {role.count} x {_words(asks(role))}" for name, role in roles.items() if asks(role))
    return PlacementError(
        f"{what} has no place on these nodes: a process lies on one node ({asked}), and they have "
        + "; ".join(f"{node.address}: {_words(node.has) or 'neither CPU nor GPU'}" for node in there),
        next="lower workers.cpus or workers.gpus to what one node has, or start larger nodes",
    )


def shortage(roles: Roles) -> str:
    """`waits for 3 CPUs (2 ranks, 1 generator): 1 of 4 CPU free`."""
    needs = [(name, _total(roles, name)) for name in ("CPU", "GPU")]
    asked = " and ".join(f"{need:g} {name}{'s' if need != 1 else ''} ({_of(roles, name)})" for name, need in needs if need)
    return f"waits for {asked}: {free()}"


def is_short(roles: Roles) -> bool:
    """Whether less is free than `roles` ask for."""
    import ray

    has = ray.available_resources()
    return any(_total(roles, name) > has.get(name, 0.0) + 1e-6 for name in ("CPU", "GPU"))


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


def asks(role: Role) -> Resources:
    """What one process reserves; nothing where it lives in the places of another role."""
    if role.colocate_with:
        return {}
    return {name: value for name, value in (("CPU", role.cpus), ("GPU", role.gpus)) if value}


def _times(node: Resources, ask: Resources, most: int) -> int:
    return min([int((node.get(name, 0.0) + 1e-6) // value) for name, value in ask.items()], default=most)


def _size(role: Role) -> tuple[int, float, float]:
    return role.count, role.cpus, role.gpus


def _total(roles: Roles, name: str) -> float:
    return sum(role.count * asks(role).get(name, 0.0) for role in roles.values())


def _of(roles: Roles, name: str) -> str:
    return ", ".join(f"{role.count} {what}" for what, role in roles.items() if asks(role).get(name))


def _words(has: Resources) -> str:
    return " and ".join(f"{has[name]:g} {name}" for name in ("CPU", "GPU") if has.get(name))
