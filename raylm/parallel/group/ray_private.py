"""What raylm uses of Ray Train's private interfaces, all in one place; tests/parallel/group/test_ray_private.py names the
version, and the private methods that `elastic` overrides."""

from ray.train.v2._internal.callbacks.datasets import DatasetsCallback
from ray.train.v2._internal.callbacks.placement_group_callback import PlacementGroupCleanerCallback
from ray.train.v2._internal.constants import get_env_vars_to_propagate
from ray.train.v2._internal.execution.callback import WorkerCallback
from ray.train.v2._internal.execution.context import get_train_context
from ray.train.v2._internal.execution.controller import TrainController
from ray.train.v2._internal.execution.scaling_policy import (
    ElasticScalingPolicy,
    FixedScalingPolicy,
    NoopDecision,
    ResizeDecision,
)
from ray.train.v2._internal.execution.worker_group import DefaultPlacementGroupHandle, PlacementGroupHandle, WorkerGroup

__all__ = [
    "DatasetsCallback", "DefaultPlacementGroupHandle", "ElasticScalingPolicy", "FixedScalingPolicy", "NoopDecision",
    "PlacementGroupCleanerCallback", "PlacementGroupHandle", "ResizeDecision", "TrainController", "WorkerCallback", "WorkerGroup",
    "get_env_vars_to_propagate",
]  # fmt: skip


def preempted_ranks() -> list[int] | None:
    """Ranks whose node Ray is about to take away; None while it takes away none."""
    # ray.train.get_preemption_info() is a collective of all workers, too dear for every step; this is what it broadcasts
    info = get_train_context().preemption_context.preemption_info
    return info.preempted_ranks if info else None
