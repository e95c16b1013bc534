"""The `lines` dedup: removes lines or paragraphs that other documents have too.

shards -> [hash every line] -> by hash -> [which are repeated] -> by shard -> [cut] -> decisions
"""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config, DocumentsRef
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.shuffle import gather_all, scatter
from raylm.prepare.corpus import Corpus, Swept, View, decide
from raylm.prepare.dedup.exact import part_of
from raylm.prepare.dedup.spans.cuts import Cuts
from raylm.prepare.dedup.spans.shards import group_of, lying_in, num_groups, shards_of, text_bytes, texts_of

if TYPE_CHECKING:
    import numpy as np

# 8 bytes of hash, 8 of row, 4 of place
_KEY_BYTES = 20
# of a line, its break with it; shorter ones are mostly not compared
_LINE_BYTES = 40
_EXAMPLES = 10
_SHOWN_CHARS = 200


class Lines(Config):
    """Cuts lines (or paragraphs) that occur in more than one document; structured rows stay as they are.

    Lines are compared as `exact` compares texts: NFKC, lower case, single spaces; by a hash of 64 bits, so of n
    different lines about n^2 / 2^65 pairs are taken for equal (0.03 pairs for a billion lines). Deduplicating
    paragraphs this way is CCNet's (Wenzek et al. 2019, https://arxiv.org/abs/1911.00359).

    A task holds one shard, or one partition of keys: 128 MiB, or all keys (20 bytes each) of one line if those are more.
    """

    kind: Literal["lines"] = "lines"
    by: Literal["line", "paragraph"] = "line"
    """What is compared: lines, or paragraphs (lines up to a blank one)."""
    max_documents: int = Field(default=1, ge=1)
    """In how many documents a line may be before it counts as repeated."""
    keep: Literal["first", "none"] = "first"
    """Where a repeated line stays: in the first document that has it, or nowhere (boilerplate; raise max_documents)."""
    within: bool = False
    """Count and cut what repeats inside one document too; else a document keeps or loses all its copies of a line."""
    min_line_chars: int = Field(default=16, ge=1)
    """Shorter lines (in characters, as they are compared) are never cut: a closing brace is no duplicate."""
    min_chars: int = Field(default=1, ge=1)
    """A document of which fewer characters than this are left is dropped."""
    against: list[DocumentsRef] = Field(default_factory=list)
    """Earlier corpora: their lines come first and they stay as they are."""

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: repeated_lines, repeated_paragraphs (of documents of which too little is left)."""
        view = corpus.joined(self.against)
        parts = corpus.parts(_KEY_BYTES, text_bytes(view) // _LINE_BYTES)
        groups = num_groups(view, parts)
        keyed = corpus.over_shards("keys", view, partial(_keys, self, view, corpus.scratch, parts), ("keys",), of=parts)
        work = partial(_repeated, self, view, corpus.scratch, groups)
        found = corpus.over_parts("repeated", parts, work, ("gone",), groups=groups)
        most = sorted((line for mark in found for line in mark["most"]), key=lambda line: (-line[0], *line[1:]))[:_EXAMPLES]
        work = partial(_cut, self, view, corpus.scratch, parts)
        done = corpus.over_parts("cut", groups, work, sources=parts, shown=[line[1:] for line in most])
        texts = {(row, number): text for mark in done for row, number, text in mark["texts"]}
        return Swept(
            groups,
            {
                "lines": sum(mark["lines"] for mark in keyed),
                "repeated": sum(mark["repeated"] for mark in found),
                "lines_cut": sum(mark["lines_cut"] for mark in done),
                **{name: sum(mark[name] for mark in done) for name in ("cut", "dropped", "bytes_cut")},
                "examples": [{"times": times, "text": texts[row, number]} for times, row, number in most],
            },
        )

    @property
    def reason(self) -> str:
        return "repeated_lines" if self.by == "line" else "repeated_paragraphs"


def _keys(card: Lines, view: View, scratch: Folder, parts: int, at: int, plain: Plain) -> Plain:
    """The hashes of one shard's lines, partitioned by range; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    from raylm.prepare.dedup.spans.units import hashes_of, units_of

    texts = texts_of(view, at)
    units = units_of(texts, card.by == "paragraph")
    hashes, chars = hashes_of(texts.data, units)
    kept = chars >= card.min_line_chars
    keys = {"hash": hashes[kept], "row": texts.row[units.doc[kept]], "number": units.number[kept].astype(np.int32)}
    scatter(scratch, "keys", at, pa.table(keys), part_of(keys["hash"], parts), parts)
    return {"lines": len(kept)}


def _repeated(card: Lines, view: View, scratch: Folder, groups: int, at: int, plain: Plain) -> Plain:
    """Which lines of one range of hashes go, by the shards they are in; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    keys = gather_all(scratch, "keys", len(view.shards), plain["part"])
    hashes, row, number = (keys[name].to_numpy() for name in ("hash", "row", "number"))
    order = np.lexsort((number, row, hashes))
    hashes, row, number = hashes[order], row[order], number[order]
    place, times = _counted(hashes, row, card.within)
    many = times > card.max_documents
    lost = many & (row >= 0) if card.keep == "none" else many & (row >= 0) & (place > 0)
    gone = pa.table({"row": row[lost], "number": number[lost]})
    scatter(scratch, "gone", at, gone, group_of(view, row[lost], groups), groups)
    # of each repeated line that is cut anywhere, the first place where it is cut
    first = np.flatnonzero(lost)
    first = first[np.unique(hashes[first], return_index=True)[1]]
    most = first[np.lexsort((number[first], row[first], -times[first]))][:_EXAMPLES]
    return {
        "repeated": len(np.unique(hashes[many])),
        "most": [[int(times[line]), int(row[line]), int(number[line])] for line in most],
    }


def _counted(hashes: np.ndarray, row: np.ndarray, within: bool) -> tuple[np.ndarray, np.ndarray]:
    """(place, times), int64[N] each, of sorted keys: the how-manieth document (or occurrence) of the line this is, from
    0, and how many there are."""
    import numpy as np

    new = np.ones(len(hashes), dtype=bool)
    new[1:] = hashes[1:] != hashes[:-1]
    fresh = np.ones(len(hashes), dtype=bool)
    if not within:
        fresh[1:] = new[1:] | (row[1:] != row[:-1])
    line = np.cumsum(new) - 1
    running = np.cumsum(fresh)
    before = (running - 1)[new] if len(new) else running
    times = np.bincount(line, weights=fresh).astype(np.int64) if len(new) else running
    return running - 1 - before[line], times[line]


def _cut(card: Lines, view: View, scratch: Folder, parts: int, at: int, plain: Plain) -> Plain:
    """The decisions about one group of shards; runs in a worker."""
    import numpy as np

    from raylm.prepare.dedup.spans.units import units_of

    gone = gather_all(scratch, "gone", parts, at)
    row, number = gone["row"].to_numpy(), gone["number"].to_numpy()
    cuts, shown = Cuts(card.reason, card.min_chars), {tuple(both) for both in plain["shown"]}
    marks: dict[str, Any] = {"lines_cut": len(row), "texts": []}
    for shard in shards_of(view, at, plain["of"]) if len(row) else ():
        here = lying_in(view, shard, row)
        if not here.any():
            continue
        texts = texts_of(view, shard)
        units = units_of(texts, card.by == "paragraph")
        first = np.searchsorted(units.doc, np.searchsorted(texts.row, row[here]))
        lines = np.sort(first + number[here])
        for doc, start, stop in _by_document(units.doc[lines]):
            begin, data = int(texts.offsets[doc]), texts.bytes_of(doc)
            spans = [(int(units.start[line]) - begin, int(units.stop[line]) - begin) for line in lines[start:stop]]
            cuts.take(int(texts.row[doc]), data, spans)
            for line in lines[start:stop]:
                place = (int(texts.row[doc]), int(units.number[line]))
                if place in shown:
                    text = data[units.start[line] - begin : units.end[line] - begin].decode()
                    marks["texts"].append([*place, text[:_SHOWN_CHARS]])
    decide(view, scratch, at, cuts.table())
    return {**cuts.counts(), **marks}


def _by_document(doc: np.ndarray) -> list[tuple[int, int, int]]:
    """(document, start, stop) of each run of equal numbers."""
    import numpy as np

    starts = np.flatnonzero(np.concatenate([[True], doc[1:] != doc[:-1]]))
    return [(int(doc[a]), int(a), int(b)) for a, b in zip(starts, np.append(starts[1:], len(doc)), strict=True)]
