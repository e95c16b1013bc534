"""Takes a shuffle of many tasks' files in a bucket of a local S3 server, leaves what its partitions cost to gather: of every
file a batch (the usual way), against files that are merged in groups first. Requests count: a store far away answers each in
20 ms or more.

A corpus of 30,000 shards and 200 partitions is 6 million batches one way, 30,000 whole files and 51,200 batches the other.
"""

from __future__ import annotations

import json
import logging
import os
import time

import numpy as np
import pyarrow as pa

from raylm.core.storage import Folder
from raylm.data import shuffle
from tests.buckets import local_bucket

TASKS, PARTS, ROWS = 120, 8, 2000
FILES = 16
"""Merged files, as `shuffle.MOST` of a larger corpus."""


class Requests(logging.Handler):
    """Counts what the server is asked."""

    def __init__(self) -> None:
        super().__init__()
        self.count = 0

    def emit(self, record: logging.LogRecord) -> None:
        self.count += 1


def scattered(folder: Folder) -> None:
    draw = np.random.default_rng(0)
    for task in range(TASKS):
        key = draw.integers(0, 1 << 62, ROWS)
        shuffle.scatter(folder, "x", task, pa.table({"key": key, "row": np.arange(ROWS) + task * ROWS}), key % PARTS, PARTS)


def measured(folder: Folder, seen: Requests, merged: bool) -> tuple[float, int, list[int]]:
    """Seconds and requests of gathering all partitions, and a sum of each."""
    since, before = time.monotonic(), seen.count
    if merged:
        for group in range(shuffle.num_groups(TASKS)):
            shuffle.merge(folder, "x", group, TASKS)
        tables = [shuffle.gather_all(folder, "x", TASKS, part) for part in range(PARTS)]
    else:
        tables = [shuffle.gather(folder, "x", range(TASKS), part) for part in range(PARTS)]
    sums = [int((table["key"].to_numpy() % 1_000_003 * np.arange(1, table.num_rows + 1)).sum()) for table in tables]
    return time.monotonic() - since, seen.count - before, sums


def main() -> None:
    seen = Requests()
    server = logging.getLogger("werkzeug")
    server.handlers, server.propagate = [seen], False
    server.setLevel(logging.INFO)
    with local_bucket("shuffle"):
        folder = Folder("s3://shuffle/x")
        scattered(folder)
        theirs = measured(folder, seen, merged=False)
        shuffle.MOST = FILES
        ours = measured(folder, seen, merged=True)
    equal = ours[2] == theirs[2]
    print(
        json.dumps(
            {
                "name": "shuffle_s3",
                "peer": "a batch of every file for every partition",
                "peer_version": "raylm before",
                "ours": ours[1],
                "theirs": theirs[1],
                "unit": f"requests, {TASKS} tasks x {PARTS} partitions",
                "ratio": round(theirs[1] / ours[1], 2),
                "goal": 2.0,
                "quality": {"the same rows in the same order": equal},
                "ok": equal and theirs[1] >= 2 * ours[1],
                "seconds": {"ours": round(ours[0], 1), "theirs": round(theirs[0], 1)},
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
