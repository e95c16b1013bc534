"""The `top` selection: the documents with the highest scores, up to a share, a number or an amount of text."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Literal

from pydantic import Field, model_validator

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.prepare.corpus import Corpus, Swept
from raylm.prepare.select.quota import Ranks, column_of, keep_first, sortable

if TYPE_CHECKING:
    import pyarrow as pa


class Top(Config):
    """Keeps the documents with the largest scores, exactly, over all shards; of equal scores the earlier rows.

    Documents without a score (null or NaN) go as `no_score`. Scores are compared as float32.
    """

    kind: Literal["top"] = "top"
    column: str
    """The score column, or a key of the metadata with a dot in it (`metadata.score`)."""
    share: float | None = Field(default=None, gt=0, le=1)
    """Share of the documents that stays."""
    num_documents: int | None = Field(default=None, ge=1)
    """Or how many documents stay."""
    num_bytes: int | None = Field(default=None, ge=1)
    """Or how much text stays, in bytes of UTF-8; the first document that does not fit ends the choice."""
    smallest: bool = False
    """Keep the smallest scores instead (a perplexity, say)."""
    per: Literal["source", "language"] | None = None
    """Choose for each source, or each language, on its own: the share or number is then each one's."""

    @model_validator(mode="after")
    def _one_amount(self) -> Top:
        if sum(amount is not None for amount in (self.share, self.num_documents, self.num_bytes)) != 1:
            raise ValueError("give one of share, num_documents and num_bytes")
        return self

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: not_selected, no_score."""
        columns = [self.column, *([self.per] if self.per else []), *(["text"] if self.num_bytes else [])]
        return keep_first(corpus, partial(_rank, self), tuple(columns), self.quota)

    def quota(self, total: int) -> int:
        """Documents, or bytes, of `total` that stay."""
        if self.share is not None:
            return round(self.share * total)
        return self.num_documents or self.num_bytes or 0


def _rank(card: Top, table: pa.Table) -> Ranks:
    import numpy as np
    import pyarrow as pa
    import pyarrow.compute as pc

    scores = column_of(table, card.column, card.kind).cast(pa.float32(), safe=False).fill_null(float("nan")).to_numpy()
    if card.per and card.per not in table.column_names:
        raise DataError(
            f"top chooses per {card.per}, and the documents have no column {card.per!r}", next="add the score card that makes it"
        )
    missing = np.isnan(scores)
    keys = sortable(np.where(missing, np.float32(0), scores))
    weights = np.ones(table.num_rows, dtype=np.int64)
    if card.num_bytes:
        weights = pc.call_function("binary_length", [table["text"]]).cast(pa.int64()).to_numpy()
    groups = table[card.per].fill_null("") if card.per else None
    return Ranks(keys if card.smallest else ~keys, weights, groups, missing)
