"""The same rows from an S3 bucket as from a disk: byte ranges, row groups, archives; keys and endpoint by environment."""

import gzip
import json

import pyarrow as pa
import pyarrow.ipc
import pyarrow.parquet as pq
import pytest

from raylm.data.records import Rejected
from raylm.data.sources.arrow import Arrow
from raylm.data.sources.csv import Csv
from raylm.data.sources.jsonl import Jsonl
from raylm.data.sources.parquet import Parquet
from raylm.data.sources.text import Text
from raylm.data.sources.warc import Warc
from tests.buckets import local_bucket


@pytest.fixture(scope="module")
def bucket():
    with local_bucket("raylm") as client:
        yield client


def _write(folder, content):
    rows = [{"text": f"row {at} ü", "n": at} for at in range(300)]
    table = pa.Table.from_pylist(rows)
    (folder / "a.jsonl").write_text("".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
    (folder / "b.jsonl.gz").write_bytes(gzip.compress((folder / "a.jsonl").read_bytes()))
    (folder / "a.csv").write_text("text,n\n" + "".join(f"{row['text']},{row['n']}\n" for row in rows))
    (folder / "a.txt").write_text("one\n\ntwo\nlines\n")
    pq.write_table(table, folder / "a.parquet", row_group_size=70)
    with pa.OSFile(str(folder / "a.arrow"), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table, max_chunksize=50)
    (folder / "a.warc.gz").write_bytes(b"".join(gzip.compress(content(at)) for at in range(8)))


def _wet(at):
    text = f"text number {at}"
    head = f"WARC-Type: conversion\r\nWARC-Target-URI: https://a.org/{at}\r\nContent-Length: {len(text)}"
    return f"WARC/1.0\r\n{head}\r\n\r\n{text}\r\n\r\n".encode()


def _rows(card):
    rows = [row for unit in card.units() for row in card.read(unit)]
    assert not any(isinstance(row, Rejected) for row in rows)
    return [(row["text"], row["start"], row["end"], row["meta"]) for row in rows], {row["source"].split("://")[0] for row in rows}


CARDS = [
    (Jsonl, "*.jsonl", {"split_bytes": 1000}),
    (Jsonl, "*.jsonl*", {}),
    (Csv, "*.csv", {}),
    (Text, "*.txt", {"by": "paragraph"}),
    (Parquet, "*.parquet", {"split_rows": 100}),
    (Arrow, "*.arrow", {"split_bytes": 1}),
    (Warc, "*.warc.gz", {"split_bytes": 200}),
]


def test_a_bucket_gives_what_a_disk_gives(bucket, tmp_path):
    _write(tmp_path, _wet)
    for path in tmp_path.iterdir():
        bucket.upload_file(str(path), "raylm", f"data/{path.name}")
    for card, glob, options in CARDS:
        local, _ = _rows(card(glob=f"{tmp_path}/{glob}", **options))
        remote, sources = _rows(card(glob=f"s3://raylm/data/{glob}", **options))
        assert remote == local and len(local) >= 2 and sources == {"s3"}, glob
    assert len(Jsonl(glob="s3://raylm/data/*.jsonl", split_bytes=1000).units()) > 5
