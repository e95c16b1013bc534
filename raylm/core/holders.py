"""Who holds the resources of a shared cluster, for the words of a wait."""

from __future__ import annotations

from typing import Any

MOST = 3
ASK_S = 10
KINDS = ("CPU", "GPU")
Held = dict[str, dict[str, float]]
"""CPU and GPU of each job."""


def holders() -> str:
    """`held by raylm-sft-2 (6 CPU, 2 GPU), raylm-serve-1 (2 CPU)`, the largest first; "" where the cluster does not say.

    Placement groups count whole, as they are reserved; actors and tasks, where they lie in none.
    """
    from ray.exceptions import RayError
    from ray.util.state import list_actors, list_jobs, list_placement_groups, list_tasks
    from ray.util.state.exception import RayStateApiException

    asked: dict[str, Any] = {"detail": True, "limit": 10_000, "timeout": ASK_S, "raise_on_missing_output": False}
    try:
        groups: list[Any] = list_placement_groups(filters=[("state", "=", "CREATED")], **asked)
        actors: list[Any] = list_actors(filters=[("state", "=", "ALIVE")], **asked)
        tasks: list[Any] = list_tasks(filters=[("state", "=", "RUNNING")], **asked)
        jobs: list[Any] = list_jobs(**asked)
        names = {job.job_id: job.submission_id or f"job {job.job_id}" for job in jobs}
    except (RayError, RayStateApiException, OSError, ConnectionError, ValueError):
        return ""
    held: Held = {}
    for group in groups:
        for bundle in group.bundles or []:
            _add(held, group.creator_job_id, bundle.get("unit_resources", {}))
    for actor in actors:
        _add(held, actor.job_id, actor.required_resources or {})
    for task in tasks:
        if task.type == "NORMAL_TASK":
            _add(held, task.job_id, task.required_resources or {})
    return in_words({names.get(job, f"job {job}"): counts for job, counts in held.items()})


def in_words(held: Held) -> str:
    """The words for what each job holds."""
    largest = sorted(held.items(), key=lambda pair: (-pair[1]["GPU"], -pair[1]["CPU"], pair[0]))
    said = [f"{name} ({', '.join(f'{counts[kind]:g} {kind}' for kind in KINDS if counts[kind])})" for name, counts in largest]
    if not said:
        return ""
    more = f" and {len(said) - MOST} more" if len(said) > MOST else ""
    return f"held by {', '.join(said[:MOST])}{more}"


def _add(held: Held, job: str, resources: dict[str, Any]) -> None:
    """Count CPUs and GPUs; what lies in a placement group names that in its resources (`CPU_group_...`) and is counted there."""
    if any("_group_" in name for name in resources):
        return
    for kind in KINDS:
        if value := float(resources.get(kind, 0.0)):
            held.setdefault(job, dict.fromkeys(KINDS, 0.0))[kind] += value
