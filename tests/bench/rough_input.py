"""Takes input that breaks data tools, leaves the proof that prepare finishes it, every row read or counted with a reason.

One line each: a single large JSONL file, a folder of very many tiny files, a string column of more than 2 GB in one row
group, a gzip file with a broken member in its middle, a WARC file that was cut short. There is no peer: the sizes are the
point. RAYLM_BENCH_SCALE (default 1.0) makes all of it smaller for a first look.
"""

from __future__ import annotations

import gzip
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.artifact import Artifact
from raylm.core.workers import Workers
from raylm.prepare.config import Prepare
from tests.stages import run_stage

SCALE = float(os.environ.get("RAYLM_BENCH_SCALE", "1.0"))
LINE = json.dumps({"text": "The quick brown fox jumps over the lazy dog, and goes on to say so once more. " * 12, "n": 1})


class Case(NamedTuple):
    """A source, the rows that must come out of it, and the reasons that must be counted (None: any number of them)."""

    source: dict[str, Any]
    rows: int | None
    dropped: dict[str, int | None]


def one_large_file(at: Path) -> Case:
    """1 GB of JSON lines in one file: read in byte ranges by all workers."""
    lines = int(1e9 * SCALE) // (len(LINE) + 1)
    with open(at / "large.jsonl", "w") as file:
        for _ in range(lines // 1000):
            file.write((LINE + "\n") * 1000)
    return Case({"kind": "jsonl", "glob": f"{at}/large.jsonl"}, lines // 1000 * 1000, {})


def many_tiny_files(at: Path) -> Case:
    """A million files of a line each, a thousand to a folder."""
    count = int(1_000_000 * SCALE)
    for number in range(count):
        if number % 1000 == 0:
            folder = at / f"{number // 1000:04d}"
            folder.mkdir()
        (folder / f"{number % 1000:03d}.txt").write_text(f"file {number} has a line")
    return Case({"kind": "text", "glob": f"{at}/**/*.txt"}, count, {})


def wide_column(at: Path) -> Case:
    """A row group whose strings pass 2 GB, which 32-bit offsets cannot address."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    size, count = 1 << 20, int(2300 * SCALE)
    table = pa.table({"text": pa.array(("x" * (size - 8) + f"{row:08d}" for row in range(count)), pa.large_string())})
    pq.write_table(table, at / "wide.parquet", row_group_size=count, compression="zstd", use_dictionary=False)
    return Case({"kind": "parquet", "glob": f"{at}/wide.parquet"}, count, {})


def broken_member(at: Path) -> Case:
    """Ten gzip members of 100 lines; bytes in the middle of the sixth are wrong."""
    members = [
        gzip.compress("".join(f'{{"text": "line {m} {n} of the file"}}\n' for n in range(100)).encode()) for m in range(10)
    ]
    bad = bytearray(members[5])
    bad[len(bad) // 2 : len(bad) // 2 + 40] = bytes(40)
    (at / "members.jsonl.gz").write_bytes(b"".join([*members[:5], bytes(bad), *members[6:]]))
    return Case({"kind": "jsonl", "glob": f"{at}/members.jsonl.gz"}, None, {"corrupt_member": 1})


def truncated_warc(at: Path) -> Case:
    """Forty pages, one gzip member each; the file ends in the middle of the last."""
    page = "<html><body><article>" + "<p>A paragraph of a page that says something about foxes and dogs.</p>" * 20
    records = []
    for number in range(40):
        body = f"HTTP/1.1 200 OK\r\nContent-Type: text/html\r\n\r\n{page}<p>{number}</p></article></body></html>".encode()
        head = (
            f"WARC/1.0\r\nWARC-Type: response\r\nWARC-Record-ID: <urn:uuid:00000000-0000-0000-0000-{number:012d}>\r\n"
            f"WARC-Date: 2026-01-01T00:00:00Z\r\nWARC-Target-URI: http://example.org/{number}\r\n"
            f"Content-Type: application/http; msgtype=response\r\nContent-Length: {len(body)}\r\n\r\n"
        )
        records.append(gzip.compress(head.encode() + body + b"\r\n\r\n"))
    (at / "cut.warc.gz").write_bytes(b"".join(records)[: -len(records[-1]) // 2])
    return Case({"kind": "warc", "glob": f"{at}/cut.warc.gz"}, 39, {"truncated_record": None})


def holds(made: Artifact, case: Case) -> bool:
    """Whether all rows are there or counted, for the reasons that were planted."""
    found = made.facts["dropped"]
    right = all(reason in found and found[reason] == (count or found[reason]) for reason, count in case.dropped.items())
    counted = made.facts["rows"] + sum(found.values()) == made.metrics["rows_in"]
    return right and counted and (case.rows is None or made.facts["rows"] == case.rows) and bool(case.dropped or not found)


def main() -> None:
    """Run every case, or those named as arguments; the last line is one JSON object."""
    cases: list[Callable[[Path], Case]] = [one_large_file, many_tiny_files, wide_column, broken_member, truncated_warc]
    cases = [case for case in cases if not sys.argv[1:] or case.__name__ in sys.argv[1:]]
    workers, quality, seconds = Workers(wanted_cpus=2), {}, {}
    for make in cases:
        with tempfile.TemporaryDirectory() as temporary:
            (at := Path(temporary) / "in").mkdir()
            case = make(at)
            since = time.monotonic()
            made = run_stage(Path(temporary), "docs", Prepare.model_validate({"source": case.source}), workers)
            seconds[make.__name__] = round(time.monotonic() - since, 1)
            quality[make.__name__] = holds(made, case)
            print(f"{make.__name__}: {made.facts['rows']:,} rows, dropped {made.facts['dropped']}, {seconds[make.__name__]} s")
    workers.stop()
    ok = all(quality.values())
    figures = {"name": "rough_input", "peer": None, "peer_version": None, "ours": sum(seconds.values()), "theirs": None}
    figures |= {"unit": "s", "ratio": None, "goal": None, "quality": quality, "ok": ok}
    print(json.dumps(figures | {"seconds": seconds}))
    sys.exit(not ok)


if __name__ == "__main__":
    main()
