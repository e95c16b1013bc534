"""Lineage: the documents in a row of a tokenize artifact, and the rows of a document.

Beside each `train-00003.arrow` lies `index-train-00003.parquet`, with a line for every document of that shard.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any

from raylm.core.artifact import Artifact, open_artifact
from raylm.core.errors import ArtifactError, DataError
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet

if TYPE_CHECKING:
    import pyarrow as pa

_DOCUMENT = ("id", "source", "start", "end", "meta", "num_tokens")


def index_schema() -> pa.Schema:
    """Columns of an index: what the document is, and per piece its row in the shard, position in that row, and tokens."""
    import pyarrow as pa

    place = pa.list_(pa.int32())
    return pa.schema(
        [
            ("id", pa.string()),
            ("source", pa.string()),
            ("start", pa.int64()),
            ("end", pa.int64()),
            ("meta", pa.large_string()),
            ("num_tokens", pa.int32()),
            ("rows", place),
            ("positions", place),
            ("lengths", place),
        ]
    )


def index_name(shard: str) -> str:
    """`index-train-00003.parquet` of `train-00003.arrow`."""
    return f"index-{shard.rsplit('.', 1)[0]}.parquet"


def documents_of(uri: str, split: str, row: int) -> list[dict[str, Any]]:
    """Documents in row `row` of the artifact at `uri`, in their order in it.

    Each: id, source, start, end, meta, num_tokens, position (in the row), length (tokens of it in this row).

    Raises:
        DataError: the split has fewer rows.
    """
    return documents_in(uri, split, [row])[row]


def documents_in(uri: str, split: str, rows: Sequence[int]) -> dict[int, list[dict[str, Any]]]:
    """`documents_of` each of several rows; a shard's index is read once. Raises DataError when there is no such row."""
    artifact = open_artifact(Folder(uri))
    found: dict[int, list[dict[str, Any]]] = {row: [] for row in rows}
    last = 0
    for shard, first, count in _shards(artifact, split):
        last = first + count
        wanted = {row - first for row in found if first <= row < last}
        for line in _index(artifact, shard).to_pylist() if wanted else ():
            for at, position, length in zip(line["rows"], line["positions"], line["lengths"], strict=True):
                if at in wanted:
                    document = {name: line[name] for name in _DOCUMENT}
                    found[first + at].append(document | {"position": position, "length": length})
    for row in rows:
        if not 0 <= row < last:
            raise DataError(f"there is no row {row} in {split}", where=artifact.uri)
    return {row: sorted(documents, key=lambda each: each["position"]) for row, documents in found.items()}


def rows_of(uri: str, split: str, id: str) -> list[dict[str, int]]:
    """Rows that hold tokens of document `id`, in the order of its tokens: row, position, length; empty when none does."""
    import pyarrow.compute as pc

    artifact, found = open_artifact(Folder(uri)), []
    for shard, first, _ in _shards(artifact, split):
        index = _index(artifact, shard)
        for line in index.filter(pc.field("id") == id).to_pylist():
            places = zip(line["rows"], line["positions"], line["lengths"], strict=True)
            found += [{"row": first + row, "position": position, "length": length} for row, position, length in places]
    return found


def _shards(artifact: Artifact, split: str) -> Iterator[tuple[str, int, int]]:
    """(file, number of its first row, rows) of every shard of a split, in order of rows."""
    first = 0
    for entry in sorted(artifact.shards(f"{split}-"), key=lambda entry: entry.path):
        yield entry.path, first, entry.rows or 0
        first += entry.rows or 0


def _index(artifact: Artifact, shard: str) -> pa.Table:
    name = index_name(shard)
    if not artifact.folder.exists(name):
        raise ArtifactError("this artifact has no document index", where=artifact.folder.path(name), next="make it again")
    return read_parquet(artifact.folder, name)
