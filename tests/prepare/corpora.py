"""A small corpus in shards, as sweeps of a running stage see it."""

from __future__ import annotations

import json
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

import pyarrow as pa

from raylm.core.config import WorkerSpec
from raylm.data.records import document, schema
from raylm.data.shards import write_parquet
from raylm.prepare.corpus import DECISIONS, Corpus, Shard, View
from tests.stages import context


def table_of(texts: Sequence[str], records: dict[int, Any] | None = None, urls: dict[int, str] | None = None) -> pa.Table:
    """A row of Documents per text; the row numbers in `records` are structured, those in `urls` have an address."""
    rows = []
    for at, text in enumerate(texts):
        row = document(f"source-{at % 3}", at, at + 1, text, (records or {}).get(at))
        rows.append(row | ({"meta": json.dumps({"url": urls[at]})} if urls and at in urls else {}))
    return pa.Table.from_pylist(rows, schema=schema())


def corpus_of(root: Path, table: pa.Table, cuts: int = 1, workers: Any = None, count: int = 1) -> Corpus:
    """The rows in `cuts` shards of about equal length, some of them empty when there are few."""
    ctx = context(root, "stage", None, workers)
    bounds = [table.num_rows * at // cuts for at in range(cuts + 1)]
    shards = []
    for at, (start, end) in enumerate(pairwise(bounds)):
        write_parquet(ctx.out, f"documents-{at:06d}-00000.parquet", table.slice(start, end - start))
        shards.append(Shard(ctx.out, f"documents-{at:06d}-00000.parquet", end - start, start))
    return Corpus(ctx, WorkerSpec(count=count), View(tuple(shards)), ctx.work / "0-card", "")


def decided(corpus: Corpus, card: Any) -> tuple[list[dict[str, Any]], dict[str, Any]]:
    """What a card decides of all rows, in row order, and its facts."""
    swept = card.sweep(corpus)
    corpus.settle(DECISIONS, swept.parts, corpus.view.own)
    view = View(corpus.view.shards, ((corpus.scratch, swept.parts),))
    rows = [row for at in range(len(view.shards)) for part in view.decisions(at) for row in part.to_pylist()]
    return sorted(rows, key=lambda row: row["row"]), swept.facts


def left(corpus: Corpus, card: Any) -> list[str]:
    """The texts that a card leaves."""
    swept = card.sweep(corpus)
    corpus.settle(DECISIONS, swept.parts, corpus.view.own)
    view = View(corpus.view.shards, ((corpus.scratch, swept.parts),))
    return [text for at in range(len(view.shards)) for text in view.table(at)["text"].to_pylist()]
