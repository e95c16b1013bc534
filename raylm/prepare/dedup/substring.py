"""The `substring` dedup: removes long passages that an earlier document has, word for word.

shards -> [anchors] -> by hash -> [which are repeated] -> by shard -> [words around them] -> by hash -> [runs] -> by shard
       -> [cut] -> decisions
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config, DocumentsRef
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.shuffle import gather_all, scatter
from raylm.prepare.corpus import Corpus, Swept, View, decide
from raylm.prepare.dedup.exact import part_of
from raylm.prepare.dedup.spans.cuts import Cuts, merged
from raylm.prepare.dedup.spans.shards import group_of, lying_in, num_groups, shards_of, text_bytes, texts_of

if TYPE_CHECKING:
    import numpy as np

    from raylm.prepare.dedup.spans.words import Winnow

# 8 bytes of hash, 8 of row, 4 of place
_KEY_BYTES = 20
# of an anchor with the words around it: hash, row, place, piece, left, right, id
_AROUND_BYTES = 70
_WORD_BYTES = 6
# anchors of one hash that one task takes: of more, every task compares its own with the first ones
_PIECE = 4096
_EXAMPLES = 5
_SHOWN_CHARS = 300


class Substring(Config):
    """Cuts every run of `min_words` words or more that an earlier document has too; structured rows stay as they are.

    What suffix arrays do (Lee et al. 2022, https://arxiv.org/abs/2107.06499), in bounded memory: anchors that are
    sure to lie in any shared run (see `spans/words.py`), shuffled by hash, and compared word by word. Words are what
    white space divides, compared as they are written; Han, kana, Thai, Lao, Khmer and Burmese characters are words of
    their own. A word is compared by 32 of its bits, so a run of n words is mistaken once in 2^32n, its end once in 2^32.

    A task holds one shard, or one partition of 128 MiB: of all anchors (about 20 bytes for each min_words / 4 words
    of text; more when more than 128 MiB of them have one hash), or of repeated ones (about 6 x min_words + 70 bytes
    each, `_PIECE` of one hash at most).
    """

    kind: Literal["substring"] = "substring"
    min_words: int = Field(default=50, ge=4)
    """The shortest run that is cut, in words."""
    max_occurrences: int = Field(default=16, ge=1)
    """With how many earlier places each place is compared that has the same anchor; how many had more is counted."""
    within: bool = False
    """Cut what a document repeats of itself too, when the places are `min_words` words apart or more."""
    min_chars: int = Field(default=1, ge=1)
    """A document of which fewer characters than this are left is dropped."""
    against: list[DocumentsRef] = Field(default_factory=list)
    """Earlier corpora: their text comes first and they stay as they are."""

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: repeated_text (of documents of which too little is left)."""
        view, scratch = corpus.joined(self.against), corpus.scratch
        words = text_bytes(view) // _WORD_BYTES
        parts = corpus.parts(_KEY_BYTES, int(4 * words / self.min_words))
        groups = num_groups(view, parts)
        keyed = corpus.over_shards("anchors", view, partial(_anchors, self, view, scratch, parts), ("anchors",), of=parts)
        work = partial(_repeated, self, view, scratch, groups)
        repeated = corpus.over_parts("repeated", parts, work, ("repeated",), groups=groups)
        num_repeated = sum(mark["anchors"] for mark in repeated)
        pieces = corpus.parts(6 * self.min_words + _AROUND_BYTES, num_repeated)
        work = partial(_around, self, view, scratch, parts, pieces)
        corpus.over_parts("around", groups, work, sources=parts, pieces=pieces)
        corpus.merge("around", len(view.shards), pieces=pieces)
        work = partial(_runs, self, view, scratch, groups)
        corpus.over_parts("runs", pieces, work, ("runs",), groups=groups)
        done = corpus.over_parts("cut", groups, partial(_cut, self, view, scratch, pieces), sources=pieces)
        lengths: Counter[str] = Counter()
        for mark in done:
            lengths.update(mark["lengths"])
        return Swept(
            groups,
            {
                "anchors": sum(mark["anchors"] for mark in keyed),
                "anchors_repeated": num_repeated,
                "anchors_capped": sum(mark["capped"] for mark in repeated),
                **{name: sum(mark[name] for mark in done) for name in ("cut", "dropped", "bytes_cut")},
                # number of passages of 2^k to 2^(k+1) - 1 words
                "lengths": {k: lengths[k] for k in sorted(lengths, key=int)},
                "examples": [example for mark in done for example in mark["examples"]][:_EXAMPLES],
            },
        )

    @property
    def winnow(self) -> Winnow:
        from raylm.prepare.dedup.spans.words import Winnow

        return Winnow(self.min_words)


def _anchors(card: Substring, view: View, scratch: Folder, parts: int, at: int, plain: Plain) -> Plain:
    """The anchors of one shard, partitioned by range of their hashes; runs in a worker."""
    import pyarrow as pa

    from raylm.prepare.dedup.spans.words import anchors_of

    texts = texts_of(view, at)
    doc, place, hashes = anchors_of(texts, card.winnow)
    scatter(
        scratch, "anchors", at, pa.table({"hash": hashes, "row": texts.row[doc], "place": place}), part_of(hashes, parts), parts
    )
    return {"anchors": len(doc)}


def _repeated(card: Substring, view: View, scratch: Folder, groups: int, at: int, plain: Plain) -> Plain:
    """The anchors of one range of hashes that occur again, by the shards they are in; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    keys = gather_all(scratch, "anchors", len(view.shards), plain["part"])
    hashes, row, place = (keys[name].to_numpy() for name in ("hash", "row", "place"))
    order = np.lexsort((place, row, hashes))
    hashes, row, place = hashes[order], row[order], place[order]
    starts = np.flatnonzero(np.concatenate([[True], hashes[1:] != hashes[:-1]])) if len(hashes) else np.zeros(0, np.int64)
    sizes = np.diff(np.append(starts, len(hashes)))
    # rows are sorted: a group of one row, or of earlier corpora alone, has nothing to cut
    last = row[starts + sizes - 1]
    used = (sizes > 1) & (last >= 0) & (card.within | (last > row[starts]))
    taken, piece = _pieces(starts[used], sizes[used], card.max_occurrences)
    found = pa.table({"hash": hashes[taken], "row": row[taken], "place": place[taken], "piece": piece.astype(np.int32)})
    scatter(scratch, "repeated", at, found, group_of(view, row[taken], groups), groups)
    return {"anchors": len(taken), "capped": int(np.maximum(sizes[used] - 1 - card.max_occurrences, 0).sum())}


def _pieces(starts: np.ndarray, sizes: np.ndarray, most: int) -> tuple[np.ndarray, np.ndarray]:
    """(index, piece) int64[N] of the members of groups, each cut in pieces of `_PIECE`; every piece has the first `most`."""
    import numpy as np

    group = np.repeat(np.arange(len(starts)), sizes)
    within = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    piece = np.maximum(within - most, 0) // _PIECE
    index = starts[group] + within
    num_pieces = np.maximum(sizes - most - 1, 0) // _PIECE + 1
    again = np.flatnonzero((within < most) & (num_pieces[group] > 1))
    times = num_pieces[group[again]] - 1
    more = np.repeat(index[again], times)
    place = np.arange(len(more)) - np.repeat(np.cumsum(times) - times, times) + 1
    return np.concatenate([index, more]), np.concatenate([piece, place])


def _around(card: Substring, view: View, scratch: Folder, parts: int, pieces: int, at: int, plain: Plain) -> Plain:
    """The words around repeated anchors of one group of shards, a file per shard, by hash; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    from raylm.prepare.dedup.spans.words import contexts_of

    wanted = gather_all(scratch, "repeated", parts, at)
    hashes, row, place, piece = (wanted[name].to_numpy() for name in ("hash", "row", "place", "piece"))
    for shard in shards_of(view, at, plain["of"]):
        here = np.flatnonzero(lying_in(view, shard, row))
        here = here[np.lexsort((piece[here], place[here], row[here]))]
        texts = texts_of(view, shard)
        doc = np.searchsorted(texts.row, row[here])
        words, left, right = contexts_of(texts, doc, place[here], card.winnow)
        rows = pa.table(
            {
                "hash": hashes[here],
                "row": row[here],
                "place": place[here],
                "piece": piece[here],
                "id": texts.id.take(pa.array(doc)),
                "left": left,
                "right": right,
                "words": pa.FixedSizeListArray.from_arrays(pa.array(words.reshape(-1)), words.shape[1]),
            }
        )
        spread = hashes[here] + piece[here].astype(np.uint64) * np.uint64(0x9E3779B97F4A7C15)
        scatter(scratch, "around", shard, rows, part_of(spread, pieces), pieces)
    return {}


def _runs(card: Substring, view: View, scratch: Folder, groups: int, at: int, plain: Plain) -> Plain:
    """The runs that anchors of one partition share with earlier ones, by the shards they are in; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    from raylm.prepare.dedup.spans.words import shared_runs

    rows = gather_all(scratch, "around", len(view.shards), plain["part"])
    hashes, row, place, piece = (rows[name].to_numpy() for name in ("hash", "row", "place", "piece"))
    order = np.lexsort((place, row, piece, hashes))
    changed = (np.diff(hashes[order]) != 0) | (np.diff(piece[order]) != 0)
    group = np.concatenate([[0], np.cumsum(changed)]) if len(order) else np.zeros(0, np.int64)
    winnow, around = card.winnow, rows["words"].combine_chunks()
    words = around.flatten().to_numpy().reshape(len(around), winnow.gram + 2 * winnow.side)[order]
    left, right = (rows[name].to_numpy()[order] for name in ("left", "right"))
    start, stop, other = shared_runs(
        group, row[order], place[order], words, left, right, winnow.gram, card.max_occurrences, card.within
    )
    lost = (other >= 0) & (row[order] >= 0)
    mine = row[order][lost]
    because = rows["id"].take(pa.array(order[other[lost]]))
    found = pa.table({"row": mine, "start": start[lost], "stop": stop[lost], "because": because})
    scatter(scratch, "runs", at, found, group_of(view, mine, groups), groups)
    return {}


def _cut(card: Substring, view: View, scratch: Folder, pieces: int, at: int, plain: Plain) -> Plain:
    """The decisions about one group of shards; runs in a worker."""
    import numpy as np

    runs = gather_all(scratch, "runs", pieces, at)
    row = runs["row"].to_numpy()
    cuts, lengths, examples = Cuts("repeated_text", card.min_chars), Counter[str](), []
    for shard in shards_of(view, at, plain["of"]) if len(row) else ():
        here = np.flatnonzero(lying_in(view, shard, row))
        if not len(here):
            continue
        texts, mine = texts_of(view, shard), runs.take(here)
        by_row: dict[int, list[tuple[int, int, str]]] = {}
        for one in mine.to_pylist():
            by_row.setdefault(one["row"], []).append((one["start"], one["stop"], one["because"]))
        for number in sorted(by_row):
            doc = int(np.searchsorted(texts.row, number))
            _cut_one(cuts, number, texts.bytes_of(doc), sorted(by_row[number]), lengths, examples)
    decide(view, scratch, at, cuts.table())
    return {**cuts.counts(), "lengths": dict(lengths), "examples": examples}


def _cut_one(
    cuts: Cuts, row: int, data: bytes, runs: list[tuple[int, int, str]], lengths: Counter[str], examples: list[dict[str, Any]]
) -> None:
    """One document. `because` is the one that it shares most with, the first in order of place among equals."""
    import numpy as np

    from raylm.prepare.dedup.spans.words import word_bounds

    starts, ends = word_bounds(np.frombuffer(data, np.uint8))
    bounds, shared = np.append(starts, len(data)), Counter[str]()
    for start, stop, because in runs:
        shared[because] += stop - start
    other = shared.most_common(1)[0][0]
    passages = merged([(start, stop) for start, stop, _ in runs])
    for start, stop in passages:
        lengths[str((stop - start).bit_length() - 1)] += 1
    if len(examples) < _EXAMPLES:
        start, stop = passages[0]
        shown = data[starts[start] : ends[stop - 1]].decode()[:_SHOWN_CHARS]
        examples.append({"words": stop - start, "because": other, "text": shown})
    cuts.take(row, data, [(int(bounds[start]), int(bounds[stop])) for start, stop in passages], other)
