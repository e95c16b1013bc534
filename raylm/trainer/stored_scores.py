"""Scores of rows that a frozen model makes ahead of training: made once on workers, kept beside the stages, read by row.

rows --units--> ray.data: scorer.score(rows) -> {split}-00003.arrow, mark --> scores.json, once all are there

They lie in `{job}/.scores/{fingerprint}`. The fingerprint is of scorer and rows alone, so that a run with another learning rate
reads the same scores; an interrupted pass goes on from its marks.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

from raylm.core.artifact import MANIFEST, Artifact, FileEntry, open_artifact
from raylm.core.config import WorkerSpec, digest_of
from raylm.core.context import Context
from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.data.marks import run_marked
from raylm.data.shards import Rows, shard_name, write_arrow

SCORES = ".scores"
DONE = "scores.json"
UNIT_TOKENS = 1 << 16
"""Tokens of a unit's rows, at their longest."""

Scored = dict[str, Any]
"""What is stored of one row: numbers, and arrays of one dimension."""


class Scorer(Protocol):
    """A frozen card that pickles to workers; its identity says all that its scores depend on, but for the rows."""

    def identity(self) -> dict[str, Any]: ...

    def score(self, rows: Sequence[dict[str, Any]]) -> list[Scored]:
        """One dict for each row, with the same names in all. The model is loaded once in a process."""
        ...


class Pass(NamedTuple):
    """Where a pass over the rows of one artifact lies, and which units are to do."""

    folder: Folder
    units: list[dict[str, Any]]
    fingerprint: str


def job_of(ctx: Context) -> Folder:
    """The folder of the job whose stage this is."""
    return Folder(ctx.out.uri.rstrip("/").rpartition("/")[0])


def planned(job: Folder, scorer: Scorer, rows: Artifact) -> Pass:
    """The pass of `scorer` over all rows.

    Args:
        job: folder of the job.
    """
    fingerprint = digest_of({"scorer": scorer.identity(), "rows": f"{rows.fingerprint} {rows.content}"})
    each, units = max(1, UNIT_TOKENS // int(rows.facts.get("length") or 1024)), []
    for split in ("train", "held_out"):
        size = sum(entry.rows or 0 for entry in rows.shards(f"{split}-"))
        units += [{"split": split, "first": at, "last": min(at + each, size)} for at in range(0, size, each)]
    return Pass(job / SCORES / fingerprint, units, fingerprint)


def store_scores(ctx: Context, scorer: Scorer, rows: Artifact, spec: WorkerSpec, make_room: Callable[[], None]) -> str:
    """Score all rows of an artifact that are not scored yet; returns the URI of the folder that holds the scores.

    Args:
        spec: the processes that score.
        make_room: called before they start.
    """
    folder, units, fingerprint = planned(job_of(ctx), scorer, rows)
    if folder.exists(DONE):
        return folder.uri
    make_room()
    inner = Context(
        stage=f"{ctx.stage}: scores", out=folder.make(), stages={}, workers=ctx.workers, config={}, identity={}, inputs=[],
        fingerprint=fingerprint,
    )  # fmt: skip
    first = {split: next((at for at, unit in enumerate(units) if unit["split"] == split), 0) for split in ("train", "held_out")}
    uri = rows.uri

    def work(number: int, unit: dict[str, Any]) -> dict[str, Any]:
        opened = Rows.open(uri, unit["split"])
        scored = scorer.score([opened[at] for at in range(unit["first"], unit["last"])])
        name = shard_name(unit["split"], number - first[unit["split"]], "arrow")
        return {"file": name, "rows": len(scored), "bytes": write_arrow(folder, name, _table(scored))}

    marks = run_marked(inner, "scores", units, work, spec, "parts")
    files = [{"path": mark["file"], "rows": mark["rows"], "bytes": mark["bytes"]} for mark in marks]
    folder.write_json(DONE, {"scorer": scorer.identity(), "rows": uri, "files": files})
    return folder.uri


def open_scores(uri: str, split: str) -> Rows:
    """The scores of one split, by row number. Raises ArtifactError when the pass did not come to its end."""
    folder = Folder(uri)
    if not folder.exists(DONE):
        raise ArtifactError("these scores are not whole", where=uri, next="run the stage that makes them")
    files = folder.read_json(DONE)["files"]
    return Rows(
        folder, split, [FileEntry(path=each["path"], bytes=each["bytes"], rows=each["rows"], digest="") for each in files]
    )


class WithScores:
    """Rows of one split, each with what is stored of it under `scores`.

    Raises:
        ArtifactError: there are not as many scores as rows.
    """

    def __init__(self, rows: Rows, scores: Rows) -> None:
        if len(rows) != len(scores):
            raise ArtifactError(
                f"{len(scores)} scores of {len(rows)} rows", where=scores.uri, next="remove this folder, and run the stage again"
            )
        self._rows, self._scores = rows, scores

    def __len__(self) -> int:
        return len(self._rows)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self._rows[index], "scores": self._scores[index]}


def content_of(path: str) -> str:
    """What tells the weights at `path` from others: the fingerprint of a checkpoint, else its files: names, sizes and times on a
    disk, digests in a bucket; of what lies on a hub its name."""
    folder = Folder(path)
    if folder.exists(MANIFEST):
        found = open_artifact(folder)
        return f"{found.fingerprint} {found.content}"
    if not (folder.is_local and os.path.isdir(folder.uri)) and "://" not in path:
        return digest_of(path)
    files = [
        # weights that are put in place of others of the same shape have the same sizes
        [name, folder.size(name), os.stat(folder.path(name)).st_mtime_ns if folder.is_local else folder.digest(name)]
        for name in folder.files()
    ]
    return digest_of([path, files])


def _table(scored: Sequence[Scored]) -> Any:
    import pyarrow as pa

    return pa.table({name: pa.array([each[name] for each in scored]) for name in scored[0]})
