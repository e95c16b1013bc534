"""What an autoscaler may bring to the cluster that this process has joined, from Ray's own record of its configuration.

Ray 2.60: ray/_private/state.py, GlobalState.get_cluster_config; its public API has sums over all machines alone
(`get_max_resources_from_cluster_config` of the same file), which do not say what one machine has.
"""

from __future__ import annotations

from typing import NamedTuple


class NodeGroup(NamedTuple):
    """Equal machines that the autoscaler adds and removes."""

    name: str
    has: dict[str, float]
    """Of one machine."""
    most: int


def node_groups() -> list[NodeGroup]:
    """Groups of the cluster's autoscaler; none where it has no autoscaler."""
    from ray._private.state import state

    config = state.get_cluster_config()
    if config is None:
        return []
    return [
        NodeGroup(group.name, {name: float(value) for name, value in group.resources.items()}, int(group.max_count))
        for group in config.node_group_configs
    ]
