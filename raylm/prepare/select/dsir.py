"""The `dsir` selection: draws documents that resemble a target corpus, by importance resampling.

target --> counts of n-grams --.
corpus --> counts of n-grams ---+--> log p(target) / p(corpus) of each document, + Gumbel noise --> the first ones stay
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config, DocumentsRef
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.prepare.corpus import Corpus, Shard, Swept, View
from raylm.prepare.select.lots import lots
from raylm.prepare.select.quota import Ranks, keep_first, sortable

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class Dsir(Config):
    """Draws documents in proportion to how much likelier they are in a target corpus than in this one.

    Xie et al. 2023 (https://arxiv.org/abs/2302.03169): both corpora are bags of 10,000 hashed words and pairs of words;
    drawing without putting back is taking the largest of log weight + Gumbel noise. Noise comes from a hash of the id.
    """

    kind: Literal["dsir"] = "dsir"
    target: DocumentsRef
    """Documents as they should be."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Share of the documents that stays."""
    num_documents: int | None = Field(default=None, ge=1)
    """Or how many documents stay."""
    seed: int = 0
    """Another seed draws other documents."""

    @model_validator(mode="after")
    def _one_amount(self) -> Dsir:
        if (self.share is None) == (self.num_documents is None):
            raise ValueError("give one of share and num_documents")
        return self

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: not_selected. Raises DataError when the target has no words."""
        # the view that joins them puts the target's shards in front; its own rows are none of the choice
        joined = corpus.joined([self.target])
        target = View(joined.shards[: joined.num_earlier])
        wanted, given = (self._counted(corpus, name, view) for name, view in (("target", target), ("raw", corpus.view)))
        if not wanted.sum():
            raise DataError("the target of dsir has no words", where=self.target, next="name documents with text")
        gains = log_ratio(wanted, given)
        swept = keep_first(corpus, partial(_rank, self, gains), ("text",), self.quota)
        return Swept(swept.parts, swept.facts | {"target_ngrams": int(wanted.sum()), "ngrams": int(given.sum())})

    def quota(self, total: int) -> int:
        """Documents of `total` that stay."""
        return self.num_documents or round((self.share or 0) * total)

    def _counted(self, corpus: Corpus, name: str, view: View) -> np.ndarray:
        """int64[buckets]: the n-grams of all shards of a view."""
        import numpy as np

        corpus.over_shards(name, view, partial(_count, view, corpus.scratch, name))
        return sum(
            (np.frombuffer(corpus.scratch.read(f"{name}-{at:06d}.counts"), dtype="<i8") for at in range(len(view.shards))),
            start=np.zeros(1, dtype=np.int64),
        )


def log_ratio(target: np.ndarray, raw: np.ndarray) -> np.ndarray:
    """float64[buckets]: log of how much likelier an n-gram is in the target, both counts raised by one so that none is 0."""
    import numpy as np

    return np.log((target + 1) / (target.sum() + len(target))) - np.log((raw + 1) / (raw.sum() + len(raw)))


def gumbel(drawn: np.ndarray) -> np.ndarray:
    """float64[N]: lots (uint64) as draws of a standard Gumbel distribution."""
    import numpy as np

    # a half more: neither 0 nor 1, whose logarithms are no numbers
    return -np.log(-np.log(((drawn >> np.uint64(12)) + 0.5) * 2.0**-52))


def _count(view: View, scratch: Folder, name: str, at: int, plain: Plain) -> Plain:
    """One shard's n-grams to a file, 80 kB; runs in a worker."""
    import numpy as np

    from raylm.prepare.select.ngrams import NUM_BUCKETS, ngrams

    shard: Shard = view.shards[at]
    # rows of the target have no decisions; those of the corpus are read as earlier sweeps left them
    table = view.table(at, ("id", "text"))
    counts = ngrams(table["text"], np.zeros(NUM_BUCKETS))[1]
    scratch.write(f"{name}-{at:06d}.counts", counts.astype("<i8").tobytes())
    return {"rows": shard.rows}


def _rank(card: Dsir, gains: np.ndarray, table: pa.Table) -> Ranks:
    import numpy as np

    from raylm.prepare.select.ngrams import ngrams

    weights = ngrams(table["text"], gains)[0]
    noisy = weights + gumbel(lots(table["id"].to_pylist(), card.kind, card.seed))
    return Ranks(~sortable(noisy), np.ones(table.num_rows, dtype=np.int64))
