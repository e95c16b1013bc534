"""What a job names and this machine does not have: files of its sources, folders of models, the config of a hub's model."""

from __future__ import annotations

import glob as globbing
import os
from collections.abc import Iterator
from typing import Any

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.estimate import config_of
from raylm.job import Job, Step


def absent(job: Job, step: Step) -> list[str]:
    """Lines on what a stage that is to do will not find on this machine; another one may have it."""
    if step.state == "ready":
        return []
    lines = [f"no file matches {glob} (the current folder is {os.getcwd()})" for glob in _unmatched(step.config)]
    for ref in step.inputs:
        is_name = "Checkpoint" in ref.kinds and ref.value not in job.stages and ref.value.count("/") == 1
        if not is_name or "://" in ref.value or os.path.isdir(os.path.expanduser(ref.value)):
            continue
        lines.append(f"{ref.value} is no folder here and taken for a hub's name")
        if hasattr(step.config, "strategy") and config_of(ref.value) is None:
            lines.append(f"no memory, speed or cost is known before its config is here: hf download {ref.value} config.json")
    return lines


def check_files(step: Step) -> None:
    """Raises DataError when a source of a stage that is to do names files on a disk, and there are none."""
    for glob in _unmatched(step.config) if step.state != "ready" else ():
        raise DataError(
            f"no file matches {glob}", where=f"stages.{step.name}", next=f"check the path; the current folder is {os.getcwd()}"
        )


def _unmatched(value: Any) -> Iterator[str]:
    """Globs of local files, of this config and those in it, that match nothing."""
    if isinstance(value, Config):
        glob = getattr(value, "glob", None)
        if (
            isinstance(glob, str)
            and "://" not in glob
            and not next(globbing.iglob(os.path.expanduser(glob), recursive=True), None)
        ):
            yield glob
        value = [getattr(value, name) for name in type(value).model_fields]
    if isinstance(value, dict):
        value = list(value.values())
    if isinstance(value, (list, tuple)):
        for part in value:
            yield from _unmatched(part)
