"""What a checkpoint learned from: the rows that its ledger and those of the checkpoints before it name, as text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.artifact import MANIFEST, Artifact, Checkpoint, open_artifact
from raylm.core.storage import Folder
from raylm.data.lineage import documents_in
from raylm.data.shards import Rows, read_parquet
from raylm.trainer.ledger import LEDGER

if TYPE_CHECKING:
    import numpy as np

_WEIGHTS = ("model", "adapter", "base")
"""Inputs that a checkpoint's weights began as; teachers, references and reward models lend it none."""
_TOKENS = ("tokens", "prompt", "chosen", "rejected", "completion")
"""Columns of rows that hold tokens."""


class LearnedRows(NamedTuple):
    """Rows of one artifact that weights learned from."""

    uri: str
    rows: np.ndarray


class Lineage(NamedTuple):
    """What is known of what a model learned from."""

    parts: list[LearnedRows]
    unknown: list[str]
    """Weights in its lineage of which nothing is known: they came from elsewhere."""


class Text(NamedTuple):
    """The text of one row."""

    row: int
    text: str


def lineage_of(checkpoint: Artifact) -> Lineage:
    """The rows of all stages that led to `checkpoint`, each once."""
    import numpy as np
    import pyarrow.compute as pc

    found: dict[str, list[Any]] = {}
    unknown: list[str] = []
    for stage in _road(checkpoint, unknown):
        parts = [entry.uri for entry in stage.manifest.inputs if entry.name.split(".")[0] in ("rows", "prompts")]
        if not stage.folder.exists(LEDGER):
            continue
        ledger = read_parquet(stage.folder, LEDGER).filter(pc.field("trained"))
        part, row = ledger.column("part").to_numpy(), ledger.column("row").to_numpy()
        for number in np.unique(part).tolist():
            found.setdefault(parts[number], []).append(np.unique(row[part == number]))
    return Lineage([LearnedRows(uri, np.unique(np.concatenate(rows))) for uri, rows in found.items()], unknown)


def texts_of(part: LearnedRows, batch: int = 256) -> Iterator[Text]:
    """The text of each row that was learned from, without special tokens."""
    from raylm.model.load import load_tokenizer

    tokenizer, rows = load_tokenizer(Folder(part.uri).path("tokenizer")), Rows.open(part.uri, "train")
    for start in range(0, len(part.rows), batch):
        numbers = part.rows[start : start + batch].tolist()
        columns = [(number, rows[number]) for number in numbers]
        pieces = [(number, row[name]) for number, row in columns for name in _TOKENS if row.get(name) is not None]
        decoded = tokenizer.batch_decode([tokens for _, tokens in pieces], skip_special_tokens=True)
        held: dict[int, list[str]] = {}
        for (number, _), text in zip(pieces, decoded, strict=True):
            held.setdefault(number, []).append(text)
        yield from (Text(number, "\n".join(texts)) for number, texts in held.items())


def documents_of_row(uri: str, row: int) -> list[tuple[str, str]]:
    """(name, text) of each document in a row: `source#id`, and "" where the row's tokens are parted into columns; [] where no
    index names its documents."""
    from raylm.model.load import load_tokenizer

    if not open_artifact(Folder(uri)).shards("index-"):
        return []
    tokenizer, tokens = load_tokenizer(Folder(uri).path("tokenizer")), Rows.open(uri, "train")[row].get("tokens")
    documents = documents_in(uri, "train", [row])[row]
    if tokens is None:
        return [(f"{each['source']}#{each['id']}", "") for each in documents]
    spans = [tokens[each["position"] : each["position"] + each["length"]] for each in documents]
    texts = tokenizer.batch_decode(spans, skip_special_tokens=True)
    return [(f"{each['source']}#{each['id']}", text) for each, text in zip(documents, texts, strict=True)]


def _road(checkpoint: Artifact, unknown: list[str]) -> list[Artifact]:
    """The checkpoint and those that its weights began as, each once; adds to `unknown` what came from elsewhere."""
    found: dict[str, Artifact] = {}
    waiting = [checkpoint]
    while waiting:
        stage = waiting.pop()
        if stage.uri in found:
            continue
        found[stage.uri] = stage
        began = [
            entry for entry in stage.manifest.inputs if entry.kind == Checkpoint.kind and entry.name.split(".")[0] in _WEIGHTS
        ]
        for entry in began:
            if Folder(entry.uri).exists(MANIFEST):
                waiting.append(open_artifact(Folder(entry.uri)))
            else:
                unknown.append(entry.uri)
    return list(found.values())
