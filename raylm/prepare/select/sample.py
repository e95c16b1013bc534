"""The `sample` selection: a random share, number or amount of documents, drawn by a hash of their ids."""

from __future__ import annotations

from collections import Counter
from fnmatch import fnmatchcase
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.data.marks import Plain
from raylm.prepare.corpus import Corpus, Swept, View, drops
from raylm.prepare.select.lots import lots, points
from raylm.prepare.select.quota import Ranks, by_shard, keep_first, num_tasks

if TYPE_CHECKING:
    import pyarrow as pa


class Sample(Config):
    """Draws documents without regard to what they say. A smaller share of the same seed is a part of a larger one."""

    kind: Literal["sample"] = "sample"
    share: float | None = Field(default=None, ge=0, le=1)
    """Share of the documents: each stays with this probability."""
    shares: dict[str, float] = Field(default_factory=dict)
    """Shares by source: pattern with * and ? -> share. The longest pattern that fits counts; sources that none fits keep
    `share`, or everything where that is not given."""
    num_documents: int | None = Field(default=None, ge=1)
    """Or just this many documents."""
    num_bytes: int | None = Field(default=None, ge=1)
    """Or this much text, in bytes of UTF-8: at most this, and short of it by less than one document."""
    seed: int = 0
    """Another seed draws other documents."""

    @model_validator(mode="after")
    def _one_amount(self) -> Sample:
        amounts = (self.share is not None or bool(self.shares), self.num_documents is not None, self.num_bytes is not None)
        if sum(amounts) != 1:
            raise ValueError("give one of share (or shares), num_documents and num_bytes")
        if wrong := [share for share in self.shares.values() if not 0 <= share <= 1]:
            raise ValueError(f"a share of shares is between 0 and 1, not {wrong[0]}")
        return self

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: not_selected. Raises DataError when a pattern of `shares` fits no source."""
        amount = self.num_documents or self.num_bytes
        if amount:
            return keep_first(corpus, partial(_rank, self), ("text",) if self.num_bytes else (), lambda total: amount)
        done = by_shard(corpus, partial(_judge, self))
        fits = Counter[str]()
        for mark in done:
            fits.update(mark["fits"])
        if unused := sorted(set(self.shares) - set(fits)):
            raise DataError(f"no source fits the pattern {unused[0]!r} of shares", next="look at the sources in sources.json")
        return Swept(num_tasks(corpus), {name: sum(mark[name] for mark in done) for name in ("documents", "kept")})

    def pattern(self, source: str) -> str | None:
        """The pattern of `shares` that counts for a source."""
        fitting = [pattern for pattern in self.shares if fnmatchcase(source, pattern)]
        return max(fitting, key=lambda pattern: (len(pattern), pattern), default=None)


def _rank(card: Sample, table: pa.Table) -> Ranks:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    drawn = lots(table["id"].to_pylist(), card.kind, card.seed)
    weights = np.ones(table.num_rows, dtype=np.int64)
    if card.num_bytes:
        weights = pc.call_function("binary_length", [table["text"]]).cast(pa.int64()).to_numpy()
    return Ranks((drawn >> np.uint64(32)).astype(np.uint32), weights)


def _judge(card: Sample, view: View, at: int) -> tuple[pa.Table, Plain]:
    """Which rows of one shard are dropped; runs in a worker."""
    import numpy as np

    table = view.table(at, ("id", "source"))
    coded: Any = table["source"].combine_chunks().dictionary_encode()
    patterns = [card.pattern(source) for source in coded.dictionary.to_pylist()]
    rest = 1.0 if card.share is None else card.share
    shares = np.array([rest if pattern is None else card.shares[pattern] for pattern in patterns], dtype=np.float64)
    keep = points(lots(table["id"].to_pylist(), card.kind, card.seed)) < shares[coded.indices.to_numpy()]
    counts = {
        "documents": table.num_rows,
        "kept": int(keep.sum()),
        "fits": {pattern: 1 for pattern in patterns if pattern is not None},
    }
    return drops(table["row"].to_numpy()[~keep], "not_selected"), counts
