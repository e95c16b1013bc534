"""JSON Lines: every line once however the file is cut, and bad lines counted by reason."""

import gzip
import json
import os
import resource

import pyarrow as pa
import pytest
import zstandard

from raylm.core.errors import DataError
from raylm.data.records import Rejected
from raylm.data.sources.jsonl import Jsonl
from raylm.data.sources.units import batches_of


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
    assert [(row.reason, os.path.basename(row.where)) for row in lost] == [("unreadable_file", f"a.jsonl.{ending}:0")]
    assert sum(row["source"].endswith("b.jsonl") for row in kept) == 5
    assert [row["text"] for row in kept[:-5]] == [json.loads(line)["text"] for line in content.splitlines()[: len(kept) - 5]]
    assert ending == "zst" or len(kept) > 1000


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


@pytest.mark.parametrize("ending", ["gz", "zst"])
def test_rows_around_a_corrupt_member_are_kept(tmp_path, ending):
    pack = gzip.compress if ending == "gz" else zstandard.ZstdCompressor(write_checksum=True).compress
    lines = [_lines(400).replace(b"row", name) for name in (b"one", b"two", b"six")]
    members = [pack(part) for part in lines]
    broken = bytearray(members[1])
    broken[len(broken) // 2 : len(broken) // 2 + 40] = bytes(40)
    (tmp_path / f"a.jsonl.{ending}").write_bytes(members[0] + broken + members[2])
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    where = f"{tmp_path}/a.jsonl.{ending}:{len(members[0])}"
    assert [(row.reason, row.where) for row in lost if row.reason != "invalid_json"] == [("corrupt_member", where)]
    texts = [row["text"] for row in kept]
    good = [json.loads(line)["text"] for part in lines for line in part.splitlines()]
    assert texts[:400] == good[:400] and texts[-400:] == good[-400:] and len({row["id"] for row in kept}) == len(kept)


def test_half_a_line_in_front_of_a_break_is_not_joined_to_what_follows(tmp_path):
    # a file packed in pieces that do not end with a line
    parts = [b'{"text": "a"}\n{"text": "half', b'{"text": "gone"}\n', b' of it"}\n{"text": "b"}\n']
    members = [gzip.compress(part) for part in parts]
    members[1] = members[1][:10] + b"\xff\xff" + members[1][12:]
    (tmp_path / "a.jsonl.gz").write_bytes(b"".join(members))
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert [row["text"] for row in kept] == ["a", "b"] and [row.reason for row in lost] == ["corrupt_member", "invalid_json"]


def test_other_scalar_columns_become_meta(tmp_path):
    row = {
        "text": "x",
        "url": "http://ü",
        "n": 2**70,
        "big": 10**17,
        "f": 0.1,
        "ok": True,
        "no": None,
        "deep": {"a": 2**70},
        "l": [1],
    }
    lines = [json.dumps(row, ensure_ascii=False), '{"text": "y"}', '{"text": "z", "nan": NaN, "half": "\\ud800!"}']
    (tmp_path / "a.jsonl").write_text("\n".join(lines))
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert not lost and list(json.loads(kept[0]["meta"])) == ["big", "deep.a", "f", "n", "ok", "url"]
    assert json.loads(kept[0]["meta"]) == {key: row[key] for key in ("big", "f", "n", "ok", "url")} | {"deep.a": 2**70}
    assert kept[1]["meta"] is None and json.loads(kept[2]["meta"]) == {"half": "\ufffd!"}


def test_a_structured_row_keeps_integers_to_the_last_digit_and_half_a_surrogate_pair_is_refused(tmp_path):
    row = {"messages": [{"role": "user", "content": "hi"}], "deep": {"n": 2**80}, "url": "u"}
    bad = {"messages": [{"role": "user", "content": "hi"}], "note": "\ud800"}
    (tmp_path / "a.jsonl").write_text(json.dumps(row) + "\n" + json.dumps(bad))
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert json.loads(kept[0]["record"]) == row and json.loads(kept[0]["meta"]) == {"deep.n": 2**80, "url": "u"}
    assert [row.reason for row in lost] == ["invalid_unicode"]


def test_rows_and_tables_are_the_same(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(_lines(2500) + b"not json\n" + b'{"text": "a", "url": "b"}\n')
    card = Jsonl(glob=str(tmp_path), split_bytes=20_000)
    rows, lost = _read(card)
    tables = [batch for unit in card.units() for batch in batches_of(card, unit)]
    assert pa.concat_tables([table for table, _ in tables]).to_pylist() == rows
    assert [row for _, rejected in tables for row in rejected] == lost
    assert max(table.num_rows for table, _ in tables) <= 1000


@pytest.mark.parametrize("ending", ["json", "json.gz"])
@pytest.mark.parametrize("indent", [None, 1])
def test_an_array_gives_its_elements_however_it_is_written(tmp_path, ending, indent):
    rows = [{"instruction": f"Q{at}", "input": "", "output": f"A{at} ü"} for at in range(30)]
    content = json.dumps(rows, indent=indent).encode()
    (tmp_path / f"a.{ending}").write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    kept, lost = _read(Jsonl(glob=str(tmp_path), split_bytes=100))
    assert not lost and [row["text"] for row in kept] == [f"Q{at}\n\nA{at} ü" for at in range(30)]
    assert json.loads(content[kept[3]["start"] : kept[3]["end"]]) == rows[3] and len({row["id"] for row in kept}) == 30


def test_bad_elements_and_a_truncated_array_are_counted(tmp_path):
    (tmp_path / "a.json").write_bytes(b'[{"text": "one"}, {"text": oops}, 5, {"text": "two"}, {"text": NaN}, {"text": "th')
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert [row["text"] for row in kept] == ["one", "two"]
    assert [row.reason for row in lost] == ["invalid_json", "not_an_object", "text_is_no_string", "invalid_json"]


def test_a_printed_object_and_several_on_one_line(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"text": "printed", "more": [1, 2]}, indent=4))
    (tmp_path / "b.jsonl").write_text(
        '{"text": "one"}{"text": "two"} {"text": "three"}\n{"text": "four"},\n{"text": "five"} rest\n'
    )
    kept, lost = _read(Jsonl(glob=str(tmp_path)))
    assert [row["text"] for row in kept] == ["printed", "one", "two", "three", "four", "five"]
    assert [row.reason for row in lost] == ["invalid_json"]
    content = (tmp_path / "b.jsonl").read_bytes()
    assert [json.loads(content[row["start"] : row["end"]])["text"] for row in kept[1:4]] == ["one", "two", "three"]
