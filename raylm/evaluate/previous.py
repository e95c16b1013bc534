"""Models of an earlier report, to be compared with those of this one on the instances that both have."""

from __future__ import annotations

from typing import NamedTuple

from raylm.core.artifact import Report
from raylm.core.errors import ArtifactError
from raylm.evaluate import instances
from raylm.evaluate.comparison import Tasks


class Earlier(NamedTuple):
    """A model as an earlier report has it."""

    tasks: Tasks
    against: str
    """The model of this stage that it is compared with."""


def models_of(report: Report, judged: str, here: list[str]) -> dict[str, Earlier]:
    """Models of the earlier report under new names: those that are called as one here, and the one it judged, against the one
    that is judged here.

    Raises:
        ArtifactError: it was made before instances were kept.
    """
    files = report.folder.read_json("report.json").get("instances")
    if not files:
        raise ArtifactError(
            "this report keeps no instances, so nothing can be paired with it",
            where=report.uri,
            next="make it again, or drop against",
        )
    before = str(report.facts.get("model", ""))
    found = {}
    for model, tasks in files.items():
        against = model if model in here else judged if model == before else None
        if against is not None:
            read = {task: instances.read(report.folder, file) for task, file in tasks.items()}
            found[f"{model} of {report.manifest.stage} before"] = Earlier(read, against)
    return found
