"""One unit in one worker: shards and lines of bounded size, structured rows cleaned without losing their shape."""

import json
from collections import Counter

import pyarrow as pa
import pytest

from raylm.core.storage import Folder
from raylm.data.records import Rejected, read_row, schema
from raylm.data.shards import read_parquet
from raylm.prepare import read
from raylm.prepare.clean.c4_lines import C4Lines
from raylm.prepare.clean.pii import Pii
from raylm.prepare.config import Prepare


def _cleaned(step, *rows):
    made = pa.Table.from_pylist([read_row(row, None, "s", at, at + 1) for at, row in enumerate(rows)], schema=schema())
    losses = read.Losses(None, "")
    return read.take_step(step, made, losses, {}), losses


def test_a_cleaner_changes_contents_and_not_roles():
    turns = [("user", "Why is the sky blue today?"), ("assistant", "Because light is scattered.\nMenu")]
    row = {"messages": [{"role": role, "content": content} for role, content in turns]}
    table, _ = _cleaned(C4Lines(), row)
    assert [turn["role"] for turn in json.loads(table["record"][0].as_py())["messages"]] == ["user", "assistant"]
    assert table["text"].to_pylist() == ["Why is the sky blue today?\n\nBecause light is scattered."]


def test_a_row_that_a_cleaner_breaks_is_counted():
    # the prompt of a pair is what both answers begin with: nothing is left of it
    pair = {"chosen": "x. Yes.", "rejected": "x. No."}
    table, losses = _cleaned(Blank(), pair, {"text": "stays"}, {"text": "x. "})
    assert table["text"].to_pylist() == ["stays"]
    assert losses.by_source == {"s": Counter({"broken_by_blank": 1, "empty_after_blank": 1})}


class Blank:
    kind = "blank"

    def clean(self, texts):
        from raylm.prepare.clean.cleaned import Cleaned

        return Cleaned([text.replace("x. ", "") for text in texts], {})


def test_shards_and_files_of_dropped_rows_are_bounded_by_all_that_they_hold(tmp_path, monkeypatch):
    monkeypatch.setattr(read, "_SHARD_BYTES", 100_000)
    monkeypatch.setattr(read, "_LINES_BYTES", 20_000)
    rows = [{"text": "x" if at % 2 else "kept", "url": f"http://a.org/{at:060d}"} for at in range(4000)]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    source = {"kind": "jsonl", "glob": str(tmp_path / "a.jsonl")}
    cfg = Prepare(source=source, steps=[{"kind": "length", "min_chars": 2}], keep_rejected=True)
    (unit,) = cfg.sources()[0].units()
    mark = read.read_unit(cfg, Folder(tmp_path / "out"), 12, {**unit.plain(), "source": 0})
    # 2000 texts are 8 kB, with address, place and id they are 400
    assert len(mark["shards"]) >= 4 and sum(shard["rows"] for shard in mark["shards"]) == 2000
    assert mark["shards"][1]["name"] == "documents-000012-00001.parquet"
    assert mark["rejected"][:2] == ["rejected-000012-000.jsonl", "rejected-000012-001.jsonl"] and len(mark["rejected"]) > 5
    out = Folder(tmp_path / "out")
    lines = [json.loads(line) for name in mark["rejected"] for line in out.read(name).splitlines()]
    ids = {row["id"] for row in lines} | {
        id for shard in mark["shards"] for id in read_parquet(out, shard["name"])["id"].to_pylist()
    }
    assert len(lines) == 2000 and len(ids) == 4000


def test_rows_with_keys_of_their_own_do_not_fill_the_mark():
    losses = read.Losses(None, "")
    for at in range(1000):
        losses.unreadable(Rejected("missing_column", f"a:{at}", tuple(f"{at}-{key}" for key in range(100))))
    assert len(losses.plain()["columns"]) <= 100


@pytest.mark.parametrize("size", [0, 1])
def test_nothing_is_written_by_default(tmp_path, size):
    losses = read.Losses(Folder(tmp_path) if size else None, "rejected")
    losses.close()
    assert losses.files == [] and list(tmp_path.iterdir()) == []


def test_one_placeholder_for_two_addresses_leaves_a_pair_readable_or_counted():
    pair = {"chosen": "Mail ann@example.com", "rejected": "Mail bob@example.com"}
    table, losses = _cleaned(Pii(), pair)
    assert table.num_rows + sum(sum(counts.values()) for counts in losses.by_source.values()) == 1
