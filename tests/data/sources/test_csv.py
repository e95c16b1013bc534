"""CSV: quoted newlines, wrong rows counted by their number, compressed files."""

import csv
import gzip
import json

import pytest

from raylm.data.records import Rejected
from raylm.data.sources.csv import Csv


def _read(card):
    rows = [row for unit in card.units() for row in card.read(unit)]
    return [row for row in rows if isinstance(row, dict)], [row for row in rows if isinstance(row, Rejected)]


@pytest.mark.parametrize("ending", ["", ".gz"])
def test_rows_are_those_of_the_csv_module(tmp_path, ending):
    rows = [{"id": f"00{at}", "text": f'line {at}\n"quoted", ü\r\nend', "note": "" if at % 2 else "a,b"} for at in range(2500)]
    path = tmp_path / f"a.csv{ending}"
    with (gzip.open if ending else open)(path, "wt", newline="", encoding="utf-8-sig") as file:
        writer = csv.DictWriter(file, list(rows[0]))
        writer.writeheader()
        writer.writerows(rows)
    kept, lost = _read(Csv(glob=str(tmp_path)))
    assert not lost and [row["text"] for row in kept] == [row["text"] for row in rows]
    assert [row["start"] for row in kept] == list(range(2500)) and len({row["id"] for row in kept}) == 2500
    # every value stays the string that it is: no number is guessed
    assert json.loads(kept[0]["meta"]) == {"id": "000", "note": "a,b"}


def test_wrong_rows_are_counted_by_their_number(tmp_path):
    (tmp_path / "a.tsv").write_text("id\ttext\n1\tgood\n2\ttoo\tmany\n\n3\tgood too\n4\n5\t \n6\tlast\n7")
    kept, lost = _read(Csv(glob=str(tmp_path), delimiter="\t"))
    assert [(row["text"], row["start"]) for row in kept] == [("good", 0), ("good too", 2), ("last", 5)]
    reasons = {row.where.rpartition(":")[2]: row.reason for row in lost}
    assert reasons == {**dict.fromkeys("136", "wrong_number_of_values"), "4": "empty"}


def test_structured_and_missing_columns(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\nq,yes\n")
    kept, _ = _read(Csv(glob=str(tmp_path)))
    assert kept[0]["text"] == "q\n\nyes" and json.loads(kept[0]["record"]) == {"prompt": "q", "completion": "yes"}
    (tmp_path / "a.csv").write_text("body;n\nx;1\n")
    _, lost = _read(Csv(glob=str(tmp_path), delimiter=";"))
    assert lost[0].reason == "missing_column" and lost[0].columns == ("body", "n")


def test_bad_bytes_cost_a_row_and_an_open_quote_the_rest_of_its_file(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text\ngood\n\xff\xfe\nmore\n")
    (tmp_path / "b.csv").write_bytes(b"text\n" + b"good line\n" * 200_000 + b'"open\n' + b"lost\n" * 600_000)
    (tmp_path / "c.csv").write_bytes(b"")
    (tmp_path / "d.csv.gz").write_bytes(gzip.compress(b"text\n" + bytes(range(48, 120)) * 500 + b"\n")[:-9])
    kept, lost = _read(Csv(glob=str(tmp_path), max_row_bytes=1 << 20))
    texts = [row["text"] for row in kept]
    assert texts[:2] == ["good", "more"] and 100_000 < texts.count("good line") <= 200_000
    assert [row.reason for row in lost] == ["invalid_utf8", "unreadable_file", "unreadable_file"]
