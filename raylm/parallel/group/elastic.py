"""Elastic Ray Train runs, whose groups have only sizes that the mesh allows: smaller when a node dies, larger later.
On a cluster of its own a run does without the processes that Ray Train keeps for clusters that outlive it; on a shared one a
group of one size runs in places that its stage reserved.

Ray Train's elastic policy counts resources alone, and resizes by ending the group where it stands
(ray/train/v2/_internal/execution/scaling_policy/elastic.py); here a group that can grow is first asked to write a checkpoint.
"""

from __future__ import annotations

import signal
import socket
from typing import Any, ClassVar

import ray
from ray.train.torch import TorchTrainer
from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

from raylm.parallel.group.hang import answer_signals
from raylm.parallel.group.interface import bind_interface
from raylm.parallel.group.preemption import Notice
from raylm.parallel.group.ray_private import (
    DatasetsCallback,
    DefaultPlacementGroupHandle,
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    PlacementGroupCleanerCallback,
    PlacementGroupHandle,
    ResizeDecision,
    TrainController,
    WorkerCallback,
    WorkerGroup,
    get_env_vars_to_propagate,
)

RESIZE_S = 60.0
"""Seconds between two looks for room for a larger group."""


class LegalSizes(ElasticScalingPolicy):
    """The largest size of `sizes` for which there is room."""

    def __init__(self, scaling_config: Any, sizes: tuple[int, ...], mailbox: Any) -> None:
        super().__init__(scaling_config)
        self._sizes, self._mailbox = sizes, mailbox

    def _count_possible_workers(self, reserved_resources: Any) -> int:
        # what is reserved for this run may lie on a node that just died, which Ray itself notices late: a group that is
        # placed there costs a minute
        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"] and _answers(node)}
        room = super()._count_possible_workers({node: what for node, what in reserved_resources.items() if node in alive})
        return max((size for size in self._sizes if size <= room), default=0)

    def make_decision_for_running_worker_group(self, worker_group_state: Any, worker_group_status: Any) -> Any:
        decision = super().make_decision_for_running_worker_group(worker_group_state, worker_group_status)
        if isinstance(decision, ResizeDecision):
            # a group that must shrink is losing a node, and is told so by that; only growing can wait for a checkpoint
            if decision.num_workers > worker_group_state.num_workers:
                self._mailbox.ask_for_room.remote(f"there is room for {decision.num_workers} ranks")
            return NoopDecision()
        return decision


class Unscaled(FixedScalingPolicy):
    """One size, on a cluster that nobody can enlarge: there is no autoscaler to ask, nor a process that would ask it."""

    def _send_resource_request(self) -> None:
        pass

    _maybe_send_resource_request = _cancel_resource_request = _send_resource_request


def _answers(node: dict[str, Any]) -> bool:
    """Whether the node's raylet takes a connection."""
    try:
        socket.create_connection((node["NodeManagerAddress"], node["NodeManagerPort"]), timeout=2.0).close()
    except OSError:
        return False
    return True


class Trainer(TorchTrainer):
    """TorchTrainer of groups that have one of `sizes`.

    Args:
        alone: whether the cluster begins and ends with this run. Each process that only waits takes its share of a laptop's
            cores: a dozen of them are a tenth of two.
        reserved: `Places` of the ranks; None where Ray Train makes a placement group for each group.
    """

    def __init__(self, *args: Any, sizes: tuple[int, ...], mailbox: Any, alone: bool, reserved: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._sizes, self._mailbox, self._alone, self._reserved = sizes, mailbox, alone, reserved

    def _create_default_callbacks(self) -> list[Any]:
        # the one would start a process that hands out datasets, of which a group of ranks has none; the other one that gives
        # back what ranks held when a run dies before its cluster
        idle = (DatasetsCallback, *([PlacementGroupCleanerCallback] if self._alone or self._reserved else []))
        return [each for each in super()._create_default_callbacks() if not isinstance(each, idle)]

    def _initialize_and_run_controller(self, **made: Any) -> Any:
        if len(self._sizes) > 1:
            made["scaling_policy"] = LegalSizes(self.scaling_config, self._sizes, self._mailbox)
        elif self._alone or self._reserved:
            made["scaling_policy"] = Unscaled(self.scaling_config)
        if self._reserved is None:
            return super()._initialize_and_run_controller(**made)
        remote: Any = ray.remote(ReservedController)
        controller = remote.options(
            num_cpus=0,
            scheduling_strategy=NodeAffinitySchedulingStrategy(ray.get_runtime_context().get_node_id(), soft=False),
            runtime_env={"env_vars": get_env_vars_to_propagate()},
        ).remote(self._reserved, **made)
        ray.get(controller.run.remote())
        return ray.get(controller.get_result.remote())


class ReservedGroup(WorkerGroup):
    """A group in places that its stage reserved: they stay its own when it dies and begins anew."""

    reserved: ClassVar[Any] = None
    """The places; a process has one controller, and that one group at a time."""

    def _create_placement_group(self, *_: Any) -> PlacementGroupHandle:
        return KeptHandle(self.reserved.group)

    def _create_workers(self, num_workers: int, *args: Any, placement_group_bundle_indices: Any = None, **named: Any) -> Any:
        # bundles before `first` belong to other roles of the stage
        own = list(range(self.reserved.first, self.reserved.first + num_workers))
        indices = placement_group_bundle_indices or own
        return super()._create_workers(num_workers, *args, placement_group_bundle_indices=indices, **named)


class KeptHandle(DefaultPlacementGroupHandle):
    """A placement group that outlives the worker group in it."""

    def shutdown(self) -> None:
        """The stage gives its places back."""


class ReservedController(TrainController):
    """Ray Train's controller of groups in `reserved`."""

    worker_group_cls = ReservedGroup

    def __init__(self, reserved: Any, **made: Any) -> None:
        ReservedGroup.reserved = reserved
        super().__init__(**made)


class OnMainThread(WorkerCallback):
    """What a rank's process must do on its main thread: Ray Train runs the ranks' function on another one."""

    def __init__(self, notice_at: str | None, alone: bool) -> None:
        self._notice_at, self._alone = notice_at, alone

    def after_init_train_context(self) -> None:
        """Handle SIGTERM (a notice to leave) and SIGUSR1 (write stacks); choose the network before ranks connect."""
        Notice.here = Notice(self._notice_at)
        signal.signal(signal.SIGTERM, Notice.here.on_signal)
        answer_signals()
        bind_interface(self._alone)
