"""Takes the `prepare` table of a job, leaves what may be asked of it."""

from __future__ import annotations

from typing import Literal

from pydantic import Field

from raylm.core.config import StageConfig, WorkerSpec
from raylm.data.sources import AnySource
from raylm.prepare.dedup.exact import Exact
from raylm.prepare.filters import AnyFilter


class Prepare(StageConfig):
    """Raw rows to cleaned Documents."""

    stage: Literal["prepare"] = "prepare"
    source: AnySource
    """Where raw rows come from."""
    filters: list[AnyFilter] = Field(default_factory=list)
    """What drops rows, in this order; a row is counted under the first filter that drops it."""
    dedup: Exact | None = None
    """Drops duplicates over all sources; without this table nothing is compared."""
    keep_rejected: bool = False
    """Writes dropped rows with their reasons to `rejected-*.jsonl` beside the documents."""
    workers: WorkerSpec = WorkerSpec(count=2)
    """Tasks that read at the same time; no part of the stage's identity."""

    def makes(self) -> str:
        """Documents."""
        return "Documents"
