"""Lineage both ways: the documents of a row and the rows of a document, over several shards."""

from __future__ import annotations

import pyarrow as pa
import pytest

from raylm.core.artifact import Dialogues, Tokens
from raylm.core.errors import ArtifactError, DataError
from raylm.data.lineage import documents_of, index_name, index_schema, rows_of
from raylm.data.shards import write_arrow, write_parquet
from tests.stages import context


def _line(id, pieces, **fields):
    places = {name: [piece[at] for piece in pieces] for at, name in enumerate(("rows", "positions", "lengths"))}
    tokens = sum(piece[2] for piece in pieces)
    return {"id": id, "source": "s", "start": 0, "end": 9, "meta": None, "num_tokens": tokens} | places | fields


def _artifact(root, name, shards, kind):
    ctx, counts = context(root, name), {}
    for number, (count, lines) in enumerate(shards):
        shard = f"train-{number:05d}.arrow"
        write_arrow(ctx.out, shard, pa.table({"tokens": [[0]] * count}))
        if lines is not None:
            write_parquet(ctx.out, index_name(shard), pa.Table.from_pylist(lines, schema=index_schema()))
        counts[shard] = count
    return ctx.commit(kind, facts={}, rows=counts)


def test_documents_of_a_row_and_rows_of_a_document(tmp_path):
    first = [_line("a", [(0, 0, 3), (1, 0, 2)], meta='{"url": "u"}'), _line("b", [(0, 3, 5)]), _line("lost", [])]
    second = [_line("c", [(0, 4, 4), (1, 0, 8), (2, 0, 1)]), _line("d", [(0, 0, 4)])]
    made = _artifact(tmp_path, "tokens", [(2, first), (3, second)], Tokens)
    found = documents_of(made.uri, "train", 0)
    assert [(each["id"], each["position"], each["length"]) for each in found] == [("a", 0, 3), ("b", 3, 5)]
    assert found[0] == {"id": "a", "source": "s", "start": 0, "end": 9, "meta": '{"url": "u"}', "num_tokens": 5,
                        "position": 0, "length": 3}  # fmt: skip
    assert [each["id"] for each in documents_of(made.uri, "train", 2)] == ["d", "c"]
    assert [each["id"] for each in documents_of(made.uri, "train", 4)] == ["c"]
    assert rows_of(made.uri, "train", "a") == [
        {"row": 0, "position": 0, "length": 3},
        {"row": 1, "position": 0, "length": 2},
    ]
    assert [place["row"] for place in rows_of(made.uri, "train", "c")] == [2, 3, 4]
    assert rows_of(made.uri, "train", "lost") == rows_of(made.uri, "train", "nowhere") == []
    # one answers the other
    for row in range(5):
        for each in documents_of(made.uri, "train", row):
            place = {"row": row, "position": each["position"], "length": each["length"]}
            assert place in rows_of(made.uri, "train", each["id"])
    with pytest.raises(DataError, match="no row 5 in train"):
        documents_of(made.uri, "train", 5)


def test_an_artifact_without_an_index_says_so(tmp_path):
    made = _artifact(tmp_path, "old", [(1, None)], Dialogues)
    with pytest.raises(ArtifactError, match="no document index"):
        documents_of(made.uri, "train", 0)
