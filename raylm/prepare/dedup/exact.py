"""The `exact` dedup: keeps the first of the documents that have the same content, or the same URL."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from functools import partial
from typing import TYPE_CHECKING, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field

from raylm.core.config import Config, DocumentsRef
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.records import GROUND_TRUTHS, STRUCTURED
from raylm.data.shuffle import gather_all, scatter
from raylm.data.unread_columns import QUESTION, SYSTEM
from raylm.prepare.corpus import Corpus, Swept, View, decide, drops
from raylm.prepare.hosts import one_host
from raylm.prepare.metadata import value_of

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

# columns of structured rows that are content; all others are metadata
_CONTENT = frozenset(
    [
        *(
            *STRUCTURED,
            *GROUND_TRUTHS,
            *SYSTEM,
            *QUESTION,
            "completion",
            "rejected",
            "label",
            "input",
            "output",
            "text",
            "response",
        ),
        *("completion", "context", "history", "tools", "functions", "images", "image", "videos", "video", "audios", "audio"),
        *(
            "documents",
            "thinking",
            "reasoning",
            "reasoning_content",
            "chat_template_kwargs",
            "weight",
            "weights",
            "train",
            "loss",
        ),
    ]
)
_TURN_METADATA = frozenset(
    ("id", "uuid", "message_id", "parent_id", "turn_id", "created", "created_at", "timestamp", "time", "date", "source", "model")
)
# 16 bytes of key, 8 of row, some 30 of id, as they lie in a shuffled partition
_ROW_BYTES = 54


class Exact(Config):
    """Drops exact duplicates: the first document of each stays, in the order of the sources.

    Two texts are the same when they are equal in NFKC, lower case and with single spaces; two structured rows, when all is
    equal that a model could be trained on: ids, sources, times and other metadata do not count. Keys are 128-bit hashes,
    shuffled by range over the cluster.
    """

    kind: Literal["exact"] = "exact"
    by: str = Field(default="text", min_length=1)
    """What is compared: `text`, `url`, or another key of the metadata, a dot going into an object (`metadata.url`). Keys that
    end in `url` are compared as addresses. Documents without a value stay, and are counted."""
    against: list[DocumentsRef] = Field(default_factory=list)
    """Earlier corpora: what they hold is dropped here too, and they stay as they are."""

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: duplicate, duplicate_url."""
        view = corpus.joined(self.against)
        parts = corpus.parts(_ROW_BYTES, view.num_rows)
        keyed = corpus.over_shards("keys", view, partial(_keys, self, view, corpus.scratch, parts), ("keys",), of=parts)
        done = corpus.over_parts("losers", parts, partial(_losers, self, view, corpus.scratch))
        return Swept(
            parts,
            {
                "dropped": sum(mark["dropped"] for mark in done),
                **({f"without_{self.by}": missing} if (missing := sum(mark["missing"] for mark in keyed)) else {}),
                "clusters": sum(mark["clusters"] for mark in done),
                "largest_cluster": max(mark["largest"] for mark in done),
            },
        )

    def hashed(self, table: pa.Table) -> list[bytes | None]:
        """A 16-byte key per row; None where the row has nothing to compare."""
        if self.by != "text":
            values = [value_of(meta, self.by) for meta in table["meta"].to_pylist()]
            plain = [value if value is None or isinstance(value, str) else json.dumps(value) for value in values]
            return [_digest(same_url(value) if self.by.endswith("url") else value) if value else None for value in plain]
        rows = zip(table["text"].to_pylist(), table["record"].to_pylist(), strict=True)
        return [_digest(normal(text) if record is None else trained_on(record)) for text, record in rows]

    @property
    def reason(self) -> str:
        return "duplicate" if self.by == "text" else f"duplicate_{self.by.rpartition('.')[2]}"


def normal(text: str) -> str:
    """The text as it is compared: NFKC, lower case, single spaces."""
    plain = text if text.isascii() else unicodedata.normalize("NFKC", text)
    return " ".join(plain.lower().split())


def same_url(url: str) -> str:
    """The address as it is compared: without scheme, `www.`, fragment and last slash; hosts as `one_host` has them. What is no
    address (`http://[x`) is compared as it is."""
    try:
        parts = urlsplit(url if "//" in url else f"//{url}")
    except ValueError:
        return url
    return f"{one_host(parts.netloc)}{parts.path.rstrip('/')}{'?' + parts.query if parts.query else ''}"


def trained_on(record: str) -> str:
    """What of a structured row a model could be trained on, as JSON."""
    row = json.loads(record)
    return json.dumps({key: _turns(value) for key, value in row.items() if key in _CONTENT}, ensure_ascii=False, sort_keys=True)


def _turns(value: Any) -> Any:
    """Messages less their ids and times; anything else as it is."""
    if not isinstance(value, list) or not all(isinstance(turn, dict) for turn in value):
        return value
    return [{key: inner for key, inner in turn.items() if key not in _TURN_METADATA} for turn in value]


def _digest(text: str) -> bytes:
    return hashlib.blake2b(text.encode(), digest_size=16).digest()


def _keys(card: Exact, view: View, scratch: Folder, parts: int, at: int, plain: Plain) -> Plain:
    """One shard's keys, partitioned by range; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    table = view.table(at, ("id", "text", "record") if card.by == "text" else ("id", "meta"))
    found = card.hashed(table)
    there = np.array([key is not None for key in found], dtype=bool)
    keys = np.frombuffer(b"".join(key for key in found if key), dtype="<u8").reshape(-1, 2)
    kept = table.filter(pa.array(there))
    rows = pa.table({"high": keys[:, 0], "low": keys[:, 1], "row": kept["row"], "id": kept["id"]})
    scatter(scratch, "keys", at, rows, part_of(keys[:, 0], parts), parts)
    return {"missing": int((~there).sum())}


def part_of(hashes: np.ndarray, parts: int) -> np.ndarray:
    """The partition of each uint64 hash, by range."""
    import numpy as np

    return ((hashes >> np.uint64(32)) * np.uint64(parts) >> np.uint64(32)).astype(np.int64)


def _losers(card: Exact, view: View, scratch: Folder, at: int, plain: Plain) -> Plain:
    """One range of keys: all but the first row of each key go; runs in a worker."""
    import numpy as np

    rows = gather_all(scratch, "keys", len(view.shards), plain["part"])
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
