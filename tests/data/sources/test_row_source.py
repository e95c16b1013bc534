"""The same mapping on every source: one row, many files, equal documents; stages without a mapping keep their identity."""

import json

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from raylm.data.records import Rejected, as_dialogue
from raylm.data.sources.arrow import Arrow
from raylm.data.sources.csv import Csv
from raylm.data.sources.documents import Documents
from raylm.data.sources.hugging_face import HuggingFace
from raylm.data.sources.jsonl import Jsonl
from raylm.data.sources.parquet import Parquet
from raylm.data.sources.units import Span, Unit, table_of

ROWS = [
    {"question": "What is 6 times 7?", "answer": "42", "url": "u"},
    {"question": "", "answer": "1", "url": "v"},
    {"question": 'Say "hi",\nplease.', "answer": "hi", "url": "w"},
]
COLUMNS = {"prompt": "question", "completion": "{{ answer }}."}


def _read(card):
    rows = [row for unit in card.units() for row in card.read(unit)]
    return [row for row in rows if isinstance(row, dict)], [row for row in rows if isinstance(row, Rejected)]


def _written(at, kind):
    table = pa.Table.from_pylist(ROWS)
    if kind is Jsonl:
        at.write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    elif kind is Csv:
        quoted = ['"{}"'.format(value.replace('"', '""')) for row in ROWS for value in row.values()]
        lines = [",".join(quoted[at : at + 3]) for at in range(0, len(quoted), 3)]
        at.write_text("\n".join(["question,answer,url", *lines]) + "\n")
    elif kind is Parquet:
        pq.write_table(table, at)
    else:
        with pa.OSFile(str(at), "wb") as file, pa.ipc.new_file(file, table.schema) as writer:
            writer.write_table(table)


@pytest.mark.parametrize("kind", [Jsonl, Csv, Parquet, Arrow])
def test_rows_are_mapped_alike_whatever_file_they_are_in(tmp_path, kind):
    _written(tmp_path / "a", kind)
    kept, lost = _read(kind(glob=str(tmp_path), columns=COLUMNS))
    dialogues = [as_dialogue(json.loads(row["record"])) for row in kept]
    assert [[turn["content"] for turn in turns] for turns in dialogues] == [
        ["What is 6 times 7?", "42."],
        ['Say "hi",\nplease.', "hi."],
    ]
    assert [row["meta"] for row in kept] == ['{"url":"u"}', '{"url":"w"}']
    assert [row.reason for row in lost] == ["empty_column: question"] and lost[0].columns == ("question", "answer", "url")
    # the range of a row is where it lies in its file, mapped or not
    plain, _ = _read(kind(glob=str(tmp_path), text_column="answer"))
    at = {row["start"]: (row["end"], row["id"]) for row in plain}
    assert all(at[row["start"]] == (row["end"], row["id"]) for row in kept)


def test_a_data_set_of_hugging_face_is_mapped(tmp_path):
    import datasets

    datasets.Dataset.from_list(ROWS).save_to_disk(str(tmp_path / "set"))
    kept, lost = _read(HuggingFace(path=str(tmp_path / "set"), columns=COLUMNS))
    assert [row["start"] for row in kept] == [0, 2] and [row.where.rpartition(":")[2] for row in lost] == ["1"]


def test_nulls_that_arrow_adds_to_tools_are_none_of_a_schema(tmp_path):
    """Structs have every key that any row has: schemas and arguments would be rendered with keys that they do not have."""
    tools = [[{"name": "f", "parameters": {"type": "object", "properties": {name: {"type": "string"}}}}] for name in "ab"]
    calls = [[{"role": "assistant", "tool_calls": [{"name": "f", "arguments": {name: "1"}}]}] for name in "ab"]
    rows = [{"prompt": "q", "completion": call, "tools": tool} for call, tool in zip(calls, tools, strict=True)]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "a.parquet")
    kept, _ = _read(Parquet(glob=str(tmp_path)))
    for row, tool, name in zip(kept, tools, "ab", strict=True):
        record = json.loads(row["record"])
        assert record["tools"] == tool
        assert as_dialogue(record)[1]["tool_calls"][0]["function"]["arguments"] == {name: "1"}
    # under another name, too
    pq.write_table(
        pa.Table.from_pylist([{"q": row["prompt"], "a": "x", "api": row["tools"]} for row in rows]), tmp_path / "a.parquet"
    )
    kept, _ = _read(Parquet(glob=str(tmp_path), columns={"prompt": "q", "completion": "a", "tools": "api"}))
    assert [json.loads(row["record"])["tools"] for row in kept] == tools


def test_documents_of_an_earlier_stage_are_mapped_by_text_row_and_metadata(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"text": "Long story.", "title": "T", "url": "u"}\n{"text": "Another.", "url": "v"}\n')
    plain, _ = _read(Jsonl(glob=f"{tmp_path}/a.jsonl"))
    table = table_of(plain).append_column("score", pa.array([0.5, 0.7]))
    pq.write_table(table, shard := str(tmp_path / "documents-000000.parquet"))
    card = Documents(documents="earlier", columns={"prompt": "Write: {{ title }}", "completion": "text"})
    ((made, lost),) = card.batches(Unit((Span(shard, shard, 0, 2),), None, ("score",)))
    assert [row.reason for row in lost] == ["missing_column: title"]
    (row,) = made.to_pylist()
    assert json.loads(row["record"]) == {"prompt": "Write: T", "completion": "Long story."}
    assert (row["id"], row["start"], row["score"], row["meta"]) == (plain[0]["id"], 0, 0.5, '{"url":"u"}')


def test_a_mapping_is_part_of_the_identity_and_none_is_not():
    plain, mapped = Jsonl(glob="a"), Jsonl(glob="a", columns=COLUMNS)
    assert "columns" not in plain.identity() and plain.fingerprint() != mapped.fingerprint()
    assert mapped.fingerprint() != Jsonl(glob="a", columns=COLUMNS | {"ignore": ["context"]}).fingerprint()
    with pytest.raises(ValueError, match="cannot stand together"):
        Jsonl(glob="a", columns=COLUMNS, text_column="text")
