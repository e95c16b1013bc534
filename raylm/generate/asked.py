"""Rows of any of the three kinds as what is asked: prompt tokens, and where the row came from."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.artifact import Artifact, Documents, Prompts
from raylm.core.errors import ArtifactError, DataError
from raylm.core.storage import Folder
from raylm.data.lineage import index_name
from raylm.data.marks import Plain
from raylm.data.messages import Dialogue
from raylm.data.shards import map_arrow, read_parquet
from raylm.generate.render import Renderer

if TYPE_CHECKING:
    import pyarrow as pa


class Asked(NamedTuple):
    """One row. `turns`: its messages where they are known; `beside`: what else its record keeps; `rejected`: why it is not
    asked, in a word to count by."""

    id: str
    source: str
    start: int
    end: int
    meta: str | None
    tokens: list[int] = []
    prompt: str = ""
    turns: Dialogue | None = None
    beside: dict[str, Any] = {}
    rejected: str = ""


def units_of(artifact: Artifact, rows_per_shard: int, num_rows: int | None) -> list[Plain]:
    """Runs of neighbouring rows of one shard, in order; each becomes a file of the result."""
    documents = isinstance(artifact, Documents)
    # index-*.parquet and rejected-*.jsonl are no rows
    entries = artifact.shards("documents-") if documents else [*artifact.shards("train-"), *artifact.shards("held_out-")]
    left = sum(entry.rows or 0 for entry in entries) if num_rows is None else num_rows
    units: list[Plain] = []
    for entry in entries:
        first = 0
        while left > 0 and first < (entry.rows or 0):
            count = min(rows_per_shard, (entry.rows or 0) - first, left)
            units.append({"shard": entry.path, "digest": entry.digest, "first": first, "rows": count})
            first, left = first + count, left - count
    return units


class Reader:
    """Reads units of an artifact; the last shard stays open for the next one."""

    def __init__(self, artifact: Artifact, renderer: Renderer) -> None:
        self._folder, self._renderer = artifact.folder, renderer
        self._plain, self._prompts = isinstance(artifact, Documents), isinstance(artifact, Prompts)
        self._held: tuple[str, pa.Table, list[list[Plain]]] | None = None

    def read(self, unit: Plain) -> Iterator[Asked]:
        """The rows of a unit, one after the other."""
        table, origins = self._open(unit["shard"])
        rows = table.slice(unit["first"], unit["rows"]).to_pylist()
        if self._plain:
            for row in rows:
                yield _document(row, self._renderer)
            return
        for at, row in enumerate(rows, unit["first"]):
            for origin in origins[at]:
                yield (_prompt if self._prompts else _dialogue)(row, origin, self._renderer)

    def _open(self, shard: str) -> tuple[pa.Table, list[list[Plain]]]:
        if self._held is None or self._held[0] != shard:
            if self._plain:
                self._held = (shard, read_parquet(self._folder, shard), [])
            else:
                table = map_arrow(self._folder.local(shard))
                self._held = (shard, table, _origins(self._folder, shard, table.num_rows))
        return self._held[1], self._held[2]


def _document(row: Plain, renderer: Renderer) -> Asked:
    made = Asked(row["id"], row["source"], row["start"], row["end"], row.get("meta"))
    columns = json.loads(row["record"]) if row["record"] is not None else {"text": row["text"]}
    try:
        drawn = renderer.document(
            {**json.loads(row.get("meta") or "{}"), "text": row["text"], **columns}, row["record"] is not None
        )
    except DataError as cause:
        return made._replace(rejected=cause.what)
    return made._replace(tokens=drawn.tokens, prompt=drawn.text, turns=drawn.turns, beside=drawn.beside)


def _prompt(row: Plain, origin: Plain, renderer: Renderer) -> Asked:
    beside = {**json.loads(row.get("columns") or "{}"), "ground_truth": row.get("ground_truth")}
    return Asked(
        **_origin(origin),
        tokens=row["tokens"],
        prompt=renderer.text(row["tokens"]),
        turns=json.loads(row["messages"]),
        beside={name: value for name, value in beside.items() if value is not None},
    )


def _dialogue(row: Plain, origin: Plain, renderer: Renderer) -> Asked:
    """What stands before its last answer; a row may hold several dialogues one behind the other, of which that is one."""
    at, length = origin["position"], origin["length"]
    tokens, mask = row["tokens"][at : at + length], list(row["mask"][at : at + length])
    if 1 not in mask:
        return Asked(**_origin(origin), rejected="no_answer")
    last = length - 1 - mask[::-1].index(1)
    while last and mask[last - 1]:
        last -= 1
    return Asked(**_origin(origin), tokens=tokens[:last], prompt=renderer.text(tokens[:last]))


def _origin(origin: Plain) -> dict[str, Any]:
    return {name: origin[name] for name in ("id", "source", "start", "end", "meta")}


def _origins(folder: Folder, shard: str, num_rows: int) -> list[list[Plain]]:
    """Of every row of a shard of rendered rows the documents in it, in their order in the row, with their place there. What a
    document has beyond its first row gets an id of its own."""
    name = index_name(shard)
    if not folder.exists(name):
        raise ArtifactError("this artifact has no document index", where=folder.path(name), next="make it again")
    found: list[list[Plain]] = [[] for _ in range(num_rows)]
    for line in read_parquet(folder, name).to_pylist():
        for piece, (row, at, length) in enumerate(zip(line["rows"], line["positions"], line["lengths"], strict=True)):
            id = f"{line['id']}-{piece}" if piece else line["id"]
            found[row].append({**line, "id": id, "position": at, "length": length})
    return [sorted(each, key=lambda one: one["position"]) for each in found]
