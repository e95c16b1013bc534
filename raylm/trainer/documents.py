"""The documents in the rows of a step, for error messages and readers of the ledger."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from raylm.core.artifact import MANIFEST, Artifact, open_artifact
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.lineage import documents_in
from raylm.data.shards import read_parquet
from raylm.trainer.ledger import LEDGER


def name_documents(uris: Sequence[str], rows: Sequence[int]) -> list[str]:
    """`source#id` of every document in `rows`, each once, in the order of the rows; `uri row 7` where no index names them.

    Args:
        uris: the artifacts of rows.
        rows: numbers of training rows through all of them, as `Batches.indices` gives them.
    """
    found: list[str] = []
    rest = list(rows)
    for uri in uris:
        artifact = open_artifact(Folder(uri)) if Folder(uri).exists(MANIFEST) else None
        size = sum(entry.rows or 0 for entry in artifact.shards("train-")) if artifact else max(rest, default=0) + 1
        mine, rest = [row for row in rest if row < size], [row - size for row in rest if row >= size]
        if artifact and artifact.shards("index-"):
            documents = documents_in(uri, "train", mine)
            found += [f"{each['source']}#{each['id']}" for row in mine for each in documents[row]]
        else:
            found += [f"{uri} row {row}" for row in mine]
    return list(dict.fromkeys(found))


def documents_of_step(checkpoint: Artifact, step: int) -> list[dict[str, Any]]:
    """Documents that step `step` (of RL: an iteration) read: what `raylm.data.lineage` knows, and `row`, `rows` and `trained`.

    Args:
        checkpoint: what a train or rl stage made; its manifest says from which rows or prompts.

    Raises:
        DataError: it has no ledger, or the ledger has no such step.
    """
    import pyarrow.compute as pc

    if not checkpoint.folder.exists(LEDGER):
        raise DataError("this checkpoint has no ledger of rows", where=checkpoint.uri, next="name one of train or rl")
    ledger = read_parquet(checkpoint.folder, LEDGER).filter(pc.field("step") == step)
    if not len(ledger):
        raise DataError(f"the ledger has no step {step}", where=checkpoint.folder.path(LEDGER))
    parts = [entry.uri for entry in checkpoint.manifest.inputs if entry.name.split(".")[0] in ("rows", "prompts")]
    read: dict[int, dict[int, bool]] = {}
    for each in ledger.to_pylist():
        read.setdefault(each["part"], {})[each["row"]] = each["trained"]
    found = []
    for part, rows in sorted(read.items()):
        for row, documents in documents_in(parts[part], "train", list(rows)).items():
            found += [{**each, "row": row, "rows": parts[part], "trained": rows[row]} for each in documents]
    return found
