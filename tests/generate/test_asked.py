"""Rows of the three kinds: what is asked, and where it came from."""

from __future__ import annotations

import json

import pytest

from raylm.core.artifact import Dialogues, Prompts
from raylm.data.lineage import index_schema
from raylm.data.records import document
from raylm.data.shards import write_arrow, write_parquet
from raylm.generate.asked import Reader, units_of
from raylm.generate.render import Renderer
from tests.generate.engines import make_texts, tiny_ids, tokenizer
from tests.stages import context


def reader(artifact, **table):
    return Reader(artifact, Renderer(tokenizer(), **table))


def test_units_are_runs_of_one_shard(tmp_path):
    texts = make_texts(tmp_path)
    assert [(unit["shard"][10:15], unit["first"], unit["rows"]) for unit in units_of(texts, 8, None)] == [
        ("00000", 0, 8), ("00000", 8, 5), ("00001", 0, 7)
    ]  # fmt: skip
    assert [unit["rows"] for unit in units_of(texts, 100, 15)] == [13, 2]
    (asked, *_) = reader(texts, chat=False).read(units_of(texts, 8, None)[1])
    assert (asked.source, asked.start, asked.prompt) == ("raw.txt", 80, "text number 8")


def test_documents_with_records_are_asked_by_their_prompts(tmp_path):
    record = {"messages": [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}], "solution": "7"}
    asked = list(reader(made := make_texts(tmp_path, texts=["x", "y"], records={0: record})).read(units_of(made, 9, None)[0]))
    assert asked[0].turns == record["messages"][:1] and asked[0].beside == {"solution": "7"} and not asked[0].rejected
    assert asked[1].turns == [{"role": "user", "content": "y"}]


def rendered(root, kind, rows, index):
    """An artifact of one shard, as tokenize leaves it."""
    import pyarrow as pa

    ctx = context(root, kind.kind.lower())
    write_arrow(ctx.out, "train-00000.arrow", pa.Table.from_pylist(rows))
    write_parquet(ctx.out, "index-train-00000.parquet", pa.Table.from_pylist(index, schema=index_schema()))
    return ctx.commit(kind, facts={}, rows={"train-00000.arrow": len(rows)})


def line(number, rows, positions, lengths):
    found = document("raw.txt", number, number + 1, "")
    kept = {name: found[name] for name in ("id", "source", "start", "end", "meta")}
    return kept | {"num_tokens": 3, "rows": rows, "positions": positions, "lengths": lengths}


def test_prompts_are_asked_as_they_are(tmp_path):
    turns = [{"role": "user", "content": "Why?"}]
    row = {
        "id": "a",
        "source": "s",
        "tokens": tiny_ids("Why?"),
        "messages": json.dumps(turns),
        "ground_truth": "7",
        "columns": '{"k": 1}',
    }
    made = rendered(tmp_path, Prompts, [row], [line(4, [0], [0], [3])])
    (asked,) = reader(made).read(units_of(made, 9, None)[0])
    assert (asked.tokens, asked.turns, asked.beside) == (row["tokens"], turns, {"k": 1, "ground_truth": "7"})
    assert (asked.start, asked.id) == (4, document("raw.txt", 4, 5, "")["id"]) and asked.prompt == "Why?"


def test_of_dialogues_the_last_answer_is_drawn_anew(tmp_path):
    # two dialogues in one row, and the second part of the second one in a row of its own
    rows = [
        {"tokens": [10, 11, 12, 13, 20, 21, 22], "mask": [0, 1, 0, 1, 0, 0, 1], "starts": [0, 4]},
        {"tokens": [30, 31, 32], "mask": [0, 0, 0], "starts": [0]},
    ]
    made = rendered(tmp_path, Dialogues, rows, [line(1, [0], [0], [4]), line(2, [0, 1], [4, 0], [3, 3])])
    asked = list(reader(made).read(units_of(made, 9, None)[0]))
    assert [one.tokens for one in asked] == [[10, 11, 12], [20, 21], []]
    assert [one.start for one in asked] == [1, 2, 2] and asked[2].id == f"{asked[1].id}-1"
    assert [one.rejected for one in asked] == ["", "", "no_answer"]


def test_rows_without_an_index_are_refused(tmp_path):
    from raylm.core.errors import ArtifactError

    made = rendered(tmp_path, Prompts, [{"tokens": [1]}], [line(1, [0], [0], [1])])
    (tmp_path / "prompts" / "index-train-00000.parquet").unlink()
    with pytest.raises(ArtifactError, match="no document index"):
        list(reader(made).read(units_of(made, 9, None)[0]))
