"""What a running stage may use: its inputs, workers, log, output folder and commit."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, TypeVar

from raylm.core import artifact as artifacts
from raylm.core import lock
from raylm.core.artifact import Artifact, FileEntry, InputEntry, Manifest
from raylm.core.errors import ArtifactError
from raylm.core.metrics import MetricLog, Progress, StageGauges
from raylm.core.storage import Folder
from raylm.core.workers import Workers

Kind = TypeVar("Kind", bound=Artifact)


class Context:
    """What a stage is handed. `out` is its folder; `work` holds marks and step checkpoints until the commit.

    Args:
        stage: the stage's name in the job.
        out: where payload and manifest go.
        stages: folders of the job's stages by name; what is no stage name is taken as a URI.
        identity, inputs, fingerprint: what the manifest will say of this run's making.
    """

    def __init__(
        self,
        *,
        stage: str,
        out: Folder,
        stages: dict[str, Folder],
        workers: Workers,
        config: dict[str, Any],
        identity: dict[str, Any],
        inputs: list[InputEntry],
        fingerprint: str,
    ) -> None:
        self.stage, self.out, self.workers, self.fingerprint = stage, out, workers, fingerprint
        self.work = out / artifacts.WORK
        self._stages, self._config, self._identity, self._inputs = stages, config, identity, inputs
        self._metrics = MetricLog(out)
        self._started = time.monotonic()

    def open(self, ref: str) -> Artifact:
        """The artifact that a reference names. Raises ArtifactError when it is not there or not whole."""
        return artifacts.open_artifact(self.folder(ref))

    def folder(self, ref: str) -> Folder:
        """Where a reference points, whatever lies there."""
        return self._stages.get(ref) or Folder(ref)

    def is_stage(self, ref: str) -> bool:
        """Whether `ref` names a stage of this job, and no URI."""
        return ref in self._stages

    def open_as(self, ref: str, kind: type[Kind]) -> Kind:
        """`open`, for a reference that must be of one kind. Raises ArtifactError when it is of another."""
        found = self.open(ref)
        if not isinstance(found, kind):
            raise ArtifactError(f"this is a {found.kind}, a {kind.kind} is needed", where=found.uri)
        return found

    def log(self, step: int, **values: Any) -> None:
        """One row of the stage's metrics.jsonl."""
        self._metrics.add(step, values)

    def rewind(self, rows: list[dict[str, Any]]) -> None:
        """Replace the metrics history by `rows`, what was known at the step checkpoint from which the stage goes on."""
        self._metrics.rewrite(rows)

    def flush(self) -> None:
        """Write the rows so far where rows cannot be appended, an object store; on a local disk they are on file."""
        if not self.out.is_local:
            self._metrics.flush()

    @property
    def metric_rows(self) -> list[dict[str, Any]]:
        """All rows logged so far, those of earlier attempts included."""
        return self._metrics.rows

    def progress(self, total: int, unit: str) -> Progress:
        """A live line for this stage; use as `with ctx.progress(...) as bar: bar.to(done, loss=...)`. On a shared cluster it is
        told to Ray's metrics too."""
        return Progress(self.stage, total, unit, gauges=self.gauges(unit))

    def gauges(self, unit: str) -> StageGauges | None:
        """Ray's metrics of how far this stage is; None on a cluster of our own, which nobody scrapes."""
        if not self.workers.submitted:
            return None
        job = self.out.uri.rstrip("/").split("/")[-2]
        return StageGauges({"job": job, "stage": self.stage, "verb": str(self._config.get("stage", "")), "unit": unit})

    def commit(
        self,
        kind: type[Kind],
        *,
        facts: dict[str, Any],
        variant: str = "",
        metrics: dict[str, Any] | None = None,
        rows: dict[str, int] | None = None,
        beside: dict[str, Callable[[Kind], str]] | None = None,
    ) -> Kind:
        """Write the manifest, last and in one step; from then on the artifact exists.

        Args:
            facts: what later stages need to know.
            variant: of a Checkpoint, what it is (`raylm.core.variants`).
            metrics: what a reader wants to see.
            rows: row counts of payload files, where they have rows.
            beside: files that tell of the artifact, by name: they are made of its manifest, and named in it.
        """
        if self._metrics.rows:
            self._metrics.flush()
        beside = beside or {}
        files = [self._entry(name, rows or {}) for name in self._payload() if name not in beside]
        manifest = self._manifest(kind.kind, variant, facts, metrics or {}, files)
        for name, make in beside.items():
            self.out.write(name, make(kind(self.out, manifest)))
        manifest = manifest.model_copy(update={"files": [*files, *(self._entry(name, {}) for name in beside)]})
        lock.check(self.out)
        self.out.write(artifacts.MANIFEST, manifest.model_dump_json(indent=2) + "\n")
        # after the manifest: a kill while large files are being digested must not cost the step checkpoints
        self.work.remove()
        return kind(self.out, manifest)

    def _payload(self) -> list[str]:
        return [
            name
            for name in self.out.files()
            if name != artifacts.MANIFEST and name.split("/")[0] not in (artifacts.WORK, artifacts.STEPS)
        ]

    def _entry(self, name: str, rows: dict[str, int]) -> FileEntry:
        return FileEntry(path=name, bytes=self.out.size(name), rows=rows.get(name), digest=self.out.digest(name))

    def _manifest(
        self, kind: str, variant: str, facts: dict[str, Any], metrics: dict[str, Any], files: list[FileEntry]
    ) -> Manifest:
        return Manifest(
            kind=kind,
            variant=variant,
            stage=self.stage,
            fingerprint=self.fingerprint,
            config=self._config,
            identity=self._identity,
            inputs=self._inputs,
            files=files,
            facts=facts,
            metrics=metrics,
            versions=artifacts.versions(),
            git_commit=artifacts.git_commit(Path.cwd()),
            made_at=datetime.now(UTC).isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - self._started, 2),
        )
