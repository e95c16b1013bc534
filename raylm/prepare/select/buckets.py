"""The `buckets` selection: keeps a share of the documents of each range of scores."""

from __future__ import annotations

from functools import partial
from itertools import pairwise
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.data.marks import Plain
from raylm.prepare.corpus import Corpus, Swept, View, drops
from raylm.prepare.select.lots import lots, points
from raylm.prepare.select.quota import Ranks, by_shard, column_of, num_tasks, rank_rows, sortable, thresholds_at, value_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Buckets(Config):
    """Cuts the documents into buckets by score and keeps a share of each, drawn by a hash of their ids.

    Documents without a score (null or NaN) go as `no_score`.
    """

    kind: Literal["buckets"] = "buckets"
    column: str
    """The score column, or a key of the metadata with a dot in it (`metadata.score`)."""
    edges: list[float] | None = None
    """Where buckets end, rising: a score equal to an edge is in the bucket above it."""
    num_buckets: int | None = Field(default=None, ge=2)
    """Or how many buckets with the same number of documents; equal scores share a bucket."""
    shares: list[float]
    """Share that stays of each bucket, lowest scores first: one more than there are edges."""
    seed: int = 0
    """Another seed draws other documents."""

    @model_validator(mode="after")
    def _fits(self) -> Buckets:
        if (self.edges is None) == (self.num_buckets is None):
            raise ValueError("give one of edges and num_buckets")
        if self.edges is not None and (not self.edges or any(low >= high for low, high in pairwise(self.edges))):
            raise ValueError("edges must rise, and there must be one at least")
        number = self.num_buckets or len(self.edges or ()) + 1
        if len(self.shares) != number:
            raise ValueError(f"{number} buckets need {number} shares, not {len(self.shares)}")
        if wrong := [share for share in self.shares if not 0 <= share <= 1]:
            raise ValueError(f"a share is between 0 and 1, not {wrong[0]}")
        return self

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: not_selected, no_score."""
        edges = self.edges if self.edges is not None else self._quantiles(corpus)
        done = by_shard(corpus, partial(_judge, self, edges))
        counts = [[sum(mark[name][at] for mark in done) for at in range(len(self.shares))] for name in ("all", "kept")]
        bounds = [
            f"below {edges[0]:.6g}",
            *(f"{low:.6g} to {high:.6g}" for low, high in pairwise(edges)),
            f"{edges[-1]:.6g} and up",
        ]
        rows = zip(bounds, self.shares, *counts, strict=True)
        names = ("scores", "share", "documents", "kept")
        return Swept(
            num_tasks(corpus),
            {
                "documents": sum(mark["documents"] for mark in done),
                "kept": sum(counts[1]),
                "no_score": sum(mark["no_score"] for mark in done),
                "buckets": [dict(zip(names, row, strict=True)) for row in rows],
            },
        )

    def _quantiles(self, corpus: Corpus) -> list[float]:
        """The scores at which the buckets of equal size end."""
        marks = rank_rows(corpus, partial(_rank, self), (self.column,))
        total = sum(sum(bins.values()) for mark in marks for bins in mark["bins"].values())
        number = self.num_buckets or 1
        thresholds = thresholds_at(corpus, marks, {"": [total * at // number for at in range(1, number)]} if total else {})
        return [value_of(threshold.key) for threshold in thresholds.get("", []) if threshold] or [0.0] * (number - 1)


def _scores(card: Buckets, table: pa.Table) -> np.ndarray:
    import pyarrow as pa

    return column_of(table, card.column, card.kind).cast(pa.float32(), safe=False).fill_null(float("nan")).to_numpy()


def _rank(card: Buckets, table: pa.Table) -> Ranks:
    import numpy as np

    scores = _scores(card, table)
    missing = np.isnan(scores)
    ones = np.ones(table.num_rows, dtype=np.int64)
    return Ranks(sortable(np.where(missing, np.float32(0), scores)), ones, None, missing)


def _judge(card: Buckets, edges: list[float], view: View, at: int) -> tuple[pa.Table, Plain]:
    """Which rows of one shard are dropped; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    table = view.table(at, ("id", card.column))
    scores, row = _scores(card, table), table["row"].to_numpy()
    missing = np.isnan(scores)
    bucket = np.searchsorted(np.array(edges, dtype=np.float32), scores, side="right")
    bucket[missing] = 0
    keep = (points(lots(table["id"].to_pylist(), card.kind, card.seed)) < np.array(card.shares)[bucket]) & ~missing
    counts = {
        "documents": table.num_rows,
        "no_score": int(missing.sum()),
        "all": np.bincount(bucket[~missing], minlength=len(card.shares)).tolist(),
        "kept": np.bincount(bucket[keep], minlength=len(card.shares)).tolist(),
    }
    return pa.concat_tables([drops(row[missing], "no_score"), drops(row[~keep & ~missing], "not_selected")]), counts
