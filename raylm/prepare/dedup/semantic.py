"""The `semantic` dedup: drops documents whose embedding is close to that of a document which is kept.

shards -> [vectors, sample] -> [k-means of the sample] -> by cluster -> [nearest that stays] -> decisions
"""

from __future__ import annotations

from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Literal, Self

from pydantic import Field, model_validator

from raylm.core.config import CheckpointRef, Config, DocumentsRef
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.shards import map_arrow, write_arrow
from raylm.data.shuffle import gather_all, scatter
from raylm.prepare.corpus import Corpus, Swept, View, decide, drops

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa

_CLUSTERS = "clusters.npz"
_EXAMPLES = 5
# what a row costs beside its vector: row, bucket, similarity, id
_ROW_BYTES = 60
# clusters are fitted to this many vectors each, or more
_SAMPLE_PER_CLUSTER = 16


class Semantic(Config):
    """Drops documents whose vector has a cosine of `similarity` or more with one that stays (SemDeDup, Abbas et al.
    2023, https://arxiv.org/abs/2303.09540), compared inside k-means clusters only.

    Vectors are held in 16-bit floats. A task holds one shard's text and vectors, the sample (2 bytes a number; 6 while
    clusters are fitted), or the keys of one partition (60 bytes a row); its vectors are read block by block.

    Which documents are dropped does not depend on partitions or workers. With `model`, the vectors themselves differ in their
    last bits with the documents that share a batch: pairs right at the threshold may fall on either side of it.
    """

    placement = frozenset({"batch_tokens"})

    kind: Literal["semantic"] = "semantic"
    model: CheckpointRef | None = None
    """Stage, folder, URI or hub name of the encoder; any AutoModel: its last hidden states are averaged."""
    column: str | None = None
    """Instead of `model`: a column of vectors (fixed-size lists of floats) that the documents bring along."""
    similarity: float = Field(default=0.95, gt=0, le=1)
    """From this cosine on two documents mean the same."""
    keep: Literal["first", "far", "near"] = "first"
    """Which of them stays: the first of the sources, the one furthest from the cluster's centre, or the nearest to it."""
    clusters: int | Literal["auto"] = "auto"
    """Number of k-means clusters. auto: one when all documents fit in `max_cluster` (nothing is missed then), else the
    root of their number, and enough that a cluster is expected to hold a quarter of `max_cluster`."""
    max_cluster: int = Field(default=20_000, ge=2)
    """A cluster that is expected to be larger is split by planes; how many were is counted. Pairs on two sides of a plane
    are missed."""
    sample: int = Field(default=100_000, ge=1)
    """About how many vectors the clusters are fitted to; 16 for each cluster at least."""
    max_tokens: int = Field(default=512, gt=0)
    """A longer text is seen by its beginning."""
    batch_tokens: int = Field(default=16384, gt=0)
    """Tokens per batch, padding included."""
    dtype: Literal["auto", "float32", "bfloat16"] = "float32"
    """Dtype of the computation; `auto`: the one that the weights are stored in."""
    seed: int = Field(default=0, ge=0)
    """Of the sample, of the clusters' beginnings and of the planes."""
    against: list[DocumentsRef] = Field(default_factory=list)
    """Earlier corpora: documents like theirs are dropped here too, and they stay as they are."""

    @model_validator(mode="after")
    def _one_origin(self) -> Self:
        if (self.model is None) == (self.column is None):
            raise ValueError("set either model or column: where do the vectors come from?")
        if self.clusters != "auto" and self.clusters < 1:
            raise ValueError("clusters must be 1 or more")
        return self

    def sweep(self, corpus: Corpus) -> Swept:
        """Reasons: semantic_duplicate."""
        from raylm.prepare.score.weights import address

        view, scratch = corpus.joined(self.against), corpus.scratch
        card = self if self.model is None else self.model_copy(update={"model": address(self.model, corpus.open)})
        vector_marks = corpus.over_shards("vectors", view, partial(_vectors, card, view, scratch))
        width = max(mark["width"] for mark in vector_marks)
        fitted = corpus.map("clusters", [{"width": width}], partial(_clusters, self, view, scratch), "fits")
        parts = corpus.parts(2 * width + _ROW_BYTES, view.num_rows)
        corpus.over_shards("buckets", view, partial(_buckets, view, scratch, parts), ("buckets",), of=parts)
        done = corpus.over_parts("nearest", parts, partial(_nearest, self, view, scratch))
        scores: Counter[str] = Counter()
        for mark in done:
            scores.update(mark["scores"])
        return Swept(
            parts,
            {
                "dropped": sum(mark["dropped"] for mark in done),
                "without_vector": sum(mark["empty"] for mark in vector_marks),
                "clusters": fitted[0]["clusters"],
                "clusters_split": fitted[0]["split"],
                "largest_bucket": max(mark["largest"] for mark in done),
                # of documents with an earlier one to compare: cosine with the one most alike, in steps of 0.05
                "similarities": dict(sorted(scores.items(), key=lambda item: float(item[0]))),
                "examples": sorted((pair for mark in done for pair in mark["examples"]), key=lambda p: p["row"])[:_EXAMPLES],
            },
        )

    def num_clusters(self, num_rows: int) -> int:
        """How many clusters `num_rows` documents are put in."""
        if self.clusters != "auto":
            return self.clusters
        if num_rows <= self.max_cluster:
            return 1
        wanted = max(int(num_rows**0.5), 4 * num_rows // self.max_cluster)
        return max(1, min(wanted, self.sample // _SAMPLE_PER_CLUSTER))


def _vectors(card: Semantic, view: View, scratch: Folder, at: int, plain: Plain) -> Plain:
    """The vectors of one shard, and those of the sample once more; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    from raylm.prepare.dedup.vectors.clusters import chosen
    from raylm.prepare.dedup.vectors.embed import embedded, taken

    if card.column:
        table = view.table(at, ("id", card.column))
        if card.column not in table.column_names:
            where = view.shards[at].name
            raise DataError(f"the documents have no column {card.column!r}", where=where, next="set column, or a model")
        vectors = taken(table[card.column], card.column)
    else:
        table = view.table(at, ("id", "text"))
        vectors = embedded(table["text"].to_pylist(), str(card.model), card.max_tokens, card.batch_tokens, card.dtype)
    there = vectors.any(axis=1)
    rows = table.filter(pa.array(there)).select(["row", "id"])
    vectors = vectors[there]
    write_arrow(scratch, f"vectors-{at:06d}.arrow", rows.append_column("vector", _column(vectors)))
    draw = chosen(rows["row"].to_numpy(), card.seed)
    wanted = max(card.sample, _SAMPLE_PER_CLUSTER * card.num_clusters(view.num_rows))
    share = min(1.0, wanted / max(view.num_rows, 1))
    taken_rows = np.flatnonzero((draw >> np.uint64(11)).astype(np.float64) < share * 2.0**53)
    write_arrow(scratch, f"sample-{at:06d}.arrow", pa.table({"vector": _column(vectors[taken_rows])}))
    return {"width": vectors.shape[1], "empty": int((~there).sum())}


def _column(vectors: np.ndarray) -> pa.Array:
    import pyarrow as pa

    return pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), vectors.shape[1])


def _matrix(column: pa.ChunkedArray, width: int) -> list[np.ndarray]:
    """float16[n, D] of each chunk, without a copy."""
    return [chunk.flatten().to_numpy().reshape(-1, width) for chunk in column.chunks]


def _clusters(card: Semantic, view: View, scratch: Folder, at: int, plain: Plain) -> Plain:
    """Fits the clusters, in one worker: the sample is bounded, and in the order of the rows."""
    import numpy as np

    from raylm.prepare.dedup.vectors.clusters import fit, planned

    width = plain["width"]
    pieces = [map_arrow(scratch.local(f"sample-{shard:06d}.arrow"))["vector"] for shard in range(len(view.shards))]
    sample = np.concatenate([np.zeros((0, width), np.float16), *(one for piece in pieces for one in _matrix(piece, width))])
    # a corpus without a single vector still has a cluster, which stays empty
    centroids = fit(sample, card.num_clusters(view.num_rows), card.seed) if len(sample) else np.zeros((1, width), np.float32)
    clusters = planned(sample, view.num_rows, centroids, card.max_cluster, card.seed)
    with scratch.writing(_CLUSTERS) as path, open(path, "wb") as file:
        np.savez(file, **clusters._asdict())
    return {"clusters": len(centroids), "split": int((clusters.num_planes > 0).sum())}


def _buckets(view: View, scratch: Folder, parts: int, at: int, plain: Plain) -> Plain:
    """The vectors of one shard by the cluster that they belong to; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    from raylm.prepare.dedup.vectors.clusters import MOST_PLANES, Clusters, bucket_of

    with np.load(scratch.local(_CLUSTERS)) as saved:
        clusters = Clusters(saved["centroids"], saved["num_planes"], saved["planes"])
    table = map_arrow(scratch.local(f"vectors-{at:06d}.arrow"))
    width = clusters.centroids.shape[1]
    # one batch in the file, one chunk in the map; none when the shard has no vector
    vectors = next(iter(_matrix(table["vector"], width)), np.zeros((0, width), np.float16))
    bucket, near = bucket_of(vectors, clusters)
    table = table.append_column("bucket", pa.array(bucket)).append_column("near", pa.array(near))
    scatter(scratch, "buckets", at, table, (bucket >> MOST_PLANES) % parts, parts)
    return {}


def _nearest(card: Semantic, view: View, scratch: Folder, at: int, plain: Plain) -> Plain:
    """The decisions about the clusters of one partition, one bucket after the other; runs in a worker."""
    import numpy as np
    import pyarrow as pa

    from raylm.prepare.dedup.vectors.nearest import nearest_kept

    table = gather_all(scratch, "buckets", len(view.shards), plain["part"])
    row, bucket, near = (table[name].to_numpy() for name in ("row", "bucket", "near"))
    wish = {"first": np.zeros(len(row)), "far": near, "near": -near}[card.keep]
    # documents of an earlier corpus come first: they stay whatever is wished
    order = np.lexsort((row, np.where(row < 0, -2, wish), bucket))
    fetch = _fetcher(table["vector"])
    other, score = np.full(len(row), -1, np.int64), np.full(len(row), -1, np.float32)
    starts = np.flatnonzero(np.diff(bucket[order], prepend=-1))
    sizes = np.diff(np.append(starts, len(order)))
    for start, size in zip(starts, sizes, strict=True):
        members = order[start : start + size]
        found, alike = nearest_kept(lambda places, members=members: fetch(members[places]), size, card.similarity)
        other[members] = np.where(found >= 0, members[found], -1)
        score[members] = alike
    lost = np.flatnonzero((other >= 0) & (row >= 0))
    lost = lost[np.argsort(row[lost])]
    because = table["id"].take(pa.array(other[lost])).combine_chunks()
    decide(view, scratch, at, drops(row[lost], "semantic_duplicate", because, score[lost]))
    compared = np.floor(score[(score > -1) & (row >= 0)] * 20 + 1e-3) / 20
    steps, counts = np.unique(compared, return_counts=True)
    ids = table["id"].take(pa.array(lost[:_EXAMPLES])).to_pylist()
    examples = zip(
        row[lost[:_EXAMPLES]].tolist(), ids, because.to_pylist()[:_EXAMPLES], score[lost[:_EXAMPLES]].tolist(), strict=True
    )
    return {
        "dropped": len(lost),
        "largest": int(sizes.max(initial=0)),
        "scores": {f"{step:.2f}": int(count) for step, count in zip(steps, counts, strict=True)},
        "examples": [{"row": r, "id": i, "because": b, "similarity": round(s, 4)} for r, i, b, s in examples],
    }


def _fetcher(column: pa.ChunkedArray):
    """Reads float32[n, D] vectors by position out of the mapped chunks: only the requested ones are held."""
    import numpy as np

    width = column.type.list_size
    chunks = _matrix(column, width)
    ends = np.cumsum([len(chunk) for chunk in chunks])

    def fetch(places: np.ndarray) -> np.ndarray:
        vectors, held = np.empty((len(places), width), np.float32), np.searchsorted(ends, places, side="right")
        for at in np.unique(held):
            mine = held == at
            vectors[mine] = chunks[at][places[mine] - (ends[at] - len(chunks[at]))]
        return vectors

    return fetch
