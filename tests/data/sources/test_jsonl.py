"""JSON Lines: every line once however the file is cut, and bad lines counted by reason."""

import gzip
import json
import os
import resource

import pytest
import zstandard

from raylm.core.errors import DataError
from raylm.data.records import Rejected
from raylm.data.sources.jsonl import Jsonl


def _read(card):
    rows = [row for unit in card.units() for row in card.read(unit)]
    return [row for row in rows if isinstance(row, dict)], [row for row in rows if isinstance(row, Rejected)]


def _lines(count):
    rows = [{"text": f"row {at} " + "ü" * (at % 7)} for at in range(count)]
    return b"".join(json.dumps(row, ensure_ascii=False).encode() + b"\n" for row in rows)


@pytest.mark.parametrize("split_bytes", [1, 7, 20, 64, 1 << 20])
def test_every_line_is_read_once_however_the_file_is_cut(tmp_path, split_bytes):
    content = _lines(40)
    (tmp_path / "a.jsonl").write_bytes(content + b'{"text": "last, without newline"}')
    kept, lost = _read(Jsonl(glob=str(tmp_path / "*.jsonl"), split_bytes=split_bytes))
    assert not lost and len(kept) == 41 and len({row["id"] for row in kept}) == 41
    assert kept == _read(Jsonl(glob=str(tmp_path / "*.jsonl")))[0]
    for row in kept[:40]:
        assert json.loads(content[row["start"] : row["end"]])["text"] == row["text"]


def test_gz_and_zst_give_the_same_rows(tmp_path):
    (tmp_path / "a.jsonl.gz").write_bytes(gzip.compress(_lines(20)))
    (tmp_path / "b.jsonl.zst").write_bytes(zstandard.ZstdCompressor().compress(_lines(20)))
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert not lost and [row["text"] for row in kept[:20]] == [row["text"] for row in kept[20:]]


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_a_truncated_file_is_counted_and_the_others_go_on(tmp_path, ending):
    content = _lines(3000)
    packed = gzip.compress(content) if ending == "gz" else zstandard.ZstdCompressor().compress(content)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(packed[: len(packed) // 2])
    (tmp_path / "b.jsonl").write_bytes(_lines(5))
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert [(row.reason, os.path.basename(row.where)) for row in lost] == [("unreadable_file", f"a.jsonl.{ending}")]
    assert sum(row["source"].endswith("b.jsonl") for row in kept) == 5


def test_bad_lines_are_counted_by_reason(tmp_path):
    lines = [
        b'{"text": "good"}',
        b'{"text": "\xff\xfe"}',
        b'{"text": "cut',
        b"[1, 2]",
        b'{"body": "x"}',
        b'{"text": " "}',
        b"",
        b'{"text": 3}',
        b'{"text": "\\ud800"}',
        b"[" * 100_000,
    ]
    (tmp_path / "a.jsonl").write_bytes(b"\n".join(lines))
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert [row["text"] for row in kept] == ["good"]
    assert [row.reason for row in lost] == [
        "invalid_utf8",
        "invalid_json",
        "not_an_object",
        "missing_column",
        "empty",
        "text_is_no_string",
        "invalid_unicode",
        "invalid_json",
    ]
    assert lost[3].columns == ("body",)


def test_a_line_of_200_mb_is_dropped_without_being_held(tmp_path):
    path = tmp_path / "a.jsonl"
    with open(path, "wb") as file:
        file.write(b'{"text": "before"}\n{"text": "')
        file.truncate(200 << 20)  # a hole: zeros that no disk block holds
        file.seek(0, os.SEEK_END)
        file.write(b'"}\n{"text": "after"}\n')
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    card = Jsonl(glob=str(path), max_row_bytes=1 << 20)
    kept, lost = _read(card)
    grown = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before
    path.unlink()
    assert [row["text"] for row in kept] == ["before", "after"] and [row.reason for row in lost] == ["row_too_long"]
    assert grown < 50_000  # KiB


def test_structured_rows_are_kept_whole_and_a_text_column_is_not(tmp_path):
    row = {"messages": [{"role": "user", "content": "hi"}, {"role": "assistant", "content": "ho"}], "topic": "x"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row))
    kept, _ = _read(Jsonl(glob=str(tmp_path)))
    assert kept[0]["text"] == "hi\n\nho" and json.loads(kept[0]["record"]) == row
    kept, _ = _read(Jsonl(glob=str(tmp_path), text_column="topic"))
    assert kept[0]["text"] == "x" and kept[0]["record"] is None


def test_no_file_names_the_glob(tmp_path):
    with pytest.raises(DataError, match=r"nothing-here.*no file matches"):
        Jsonl(glob=str(tmp_path / "nothing-here*.jsonl")).units()
    with pytest.raises(DataError, match="no file matches"):
        Jsonl(glob=str(tmp_path)).units()


def test_a_uri_is_read_through_fsspec(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(_lines(3))
    kept, _ = _read(Jsonl(glob=f"file://{tmp_path}/*.jsonl"))
    assert [row["text"] for row in kept] == [row["text"] for row in _read(Jsonl(glob=str(tmp_path)))[0]]
