"""Takes all documents, leaves the first of each group that reads the same, or that comes from the same address."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from functools import partial
from typing import TYPE_CHECKING, Literal
from urllib.parse import urlsplit

from pydantic import Field

from raylm.core.config import Config, DocumentsRef
from raylm.core.storage import Folder
from raylm.data.exchange import gather, scatter
from raylm.data.marks import Plain
from raylm.prepare.corpus import Corpus, Swept, View, decide, drops

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# 16 bytes of key, 8 of row, some 30 of id, as they lie in a shuffled partition
_ROW_BYTES = 54


class Exact(Config):
    """Drops exact duplicates: the first document of each stays, in the order of the sources.

    Two texts are the same when they are equal in NFKC, lower case and with single spaces; two structured rows, when the
    whole rows are. Keys are 128-bit hashes, shuffled by range over the cluster.
    """

    kind: Literal["exact"] = "exact"
    by: Literal["text", "url"] = "text"
    """What is compared: the text, or the `url` of the metadata (documents without one stay)."""
    against: list[DocumentsRef] = Field(default_factory=list)
    """Earlier corpora: what they hold is dropped here too, and they stay as they are."""

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: duplicate, duplicate_url."""
        view = corpus.joined(self.against)
        parts = corpus.parts(_ROW_BYTES, view.num_rows)
        corpus.over_shards("keys", view, partial(_keys, self, view, corpus.scratch, parts), of=parts)
        done = corpus.over_parts("losers", parts, partial(_losers, self, view, corpus.scratch))
        return Swept(
            parts,
            {
                "dropped": sum(mark["dropped"] for mark in done),
                "clusters": sum(mark["clusters"] for mark in done),
                "largest_cluster": max(mark["largest"] for mark in done),
            },
        )

    def hashed(self, table: pa.Table) -> list[bytes | None]:
        """A 16-byte key per row; None where the row has nothing to compare."""
        if self.by == "url":
            urls = [json.loads(meta).get("url") if meta else None for meta in table["meta"].to_pylist()]
            return [_digest(same_url(url)) if isinstance(url, str) and url else None for url in urls]
        rows = zip(table["text"].to_pylist(), table["record"].to_pylist(), strict=True)
        return [_digest(normal(text) if record is None else record) for text, record in rows]

    @property
    def reason(self) -> str:
        return "duplicate" if self.by == "text" else "duplicate_url"


def normal(text: str) -> str:
    """The text as it is compared: NFKC, lower case, single spaces."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.lower().split())


def same_url(url: str) -> str:
    """The address as it is compared: without scheme, `www.`, fragment and last slash; the host in lower case. What is no
    address (`http://[x`) is compared as it is."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        return url
    host = parts.netloc.lower().removeprefix("www.").removesuffix(":80").removesuffix(":443")
    return f"{host}{parts.path.rstrip('/')}{'?' + parts.query if parts.query else ''}"


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _keys(card: Exact, view: View, scratch: Folder, parts: int, at: int, plain: Plain) -> Plain:
    """One shard's keys, cut by range; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    table = view.table(at, ("id", "text", "record") if card.by == "text" else ("id", "meta"))
    found = card.hashed(table)
    there = np.array([key is not None for key in found], dtype=bool)
    keys = np.frombuffer(b"".join(key for key in found if key), dtype="<u8").reshape(-1, 2)
    kept = table.filter(pa.array(there))
    rows = pa.table({"high": keys[:, 0], "low": keys[:, 1], "row": kept["row"], "id": kept["id"]})
    scatter(scratch, "keys", at, rows, part_of(keys[:, 0], parts), parts)
    return {}


def part_of(hashes: np.ndarray, parts: int) -> np.ndarray:
    """The partition of each uint64 hash, by range."""
    import numpy as np

    return ((hashes >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def _losers(card: Exact, view: View, scratch: Folder, at: int, plain: Plain) -> Plain:
    """One range of keys: all but the first row of each key go; runs in a worker."""
    import numpy as np

    rows = gather(scratch, "keys", range(len(view.shards)), plain["part"])
    high, low, row = (rows[name].to_numpy() for name in ("high", "low", "row"))
    order = np.lexsort((row, low, high))
    high, low, row = high[order], low[order], row[order]
    first = np.ones(len(row), dtype=bool)
    first[1:] = (high[1:] != high[:-1]) | (low[1:] != low[:-1])
    starts = np.flatnonzero(first)
    lost = ~first & (row >= 0)
    keeper = starts[np.cumsum(first) - 1][lost] if len(row) else starts
    because = rows["id"].take(order[keeper]).combine_chunks()
    decide(view, scratch, at, drops(row[lost], card.reason, because))
    sizes = np.diff(np.append(starts, len(row)))
    return {"dropped": int(lost.sum()), "clusters": int((sizes > 1).sum()), "largest": int(sizes.max(initial=0))}
