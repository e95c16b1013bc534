"""The `min_hash` dedup: drops near duplicates. MinHash bands find candidates, exact Jaccard similarity decides."""

from __future__ import annotations

from functools import partial
from typing import TYPE_CHECKING, Any, Literal

from pydantic import Field

from raylm.core.config import Config, DocumentsRef
from raylm.data.marks import Plain
from raylm.prepare.corpus import Corpus, Swept

if TYPE_CHECKING:
    from raylm.prepare.dedup.fuzzy.words import Shingling

# key and row of one band
_KEY_BYTES = 16
# some four connecting pairs of a document, seen from both ends
_NODE_BYTES = 128
# row, group and id of a document that is compared, beside its set
_MEMBER_BYTES = 64


class MinHash(Config):
    """Drops near duplicates (Broder 1997; FineWeb, https://arxiv.org/abs/2406.17557, has 14 bands of 8 and no comparison).

    Documents are sets of word n-grams. Those that share a band of MinHash values are linked, and what is linked, over any
    number of steps, is a cluster. Within a cluster, in the order of the sources, a document is dropped when it is really
    similar to a kept one; so none is dropped for a neighbour's neighbour. Structured rows count by their text.
    Documents without a word are never compared.
    """

    kind: Literal["min_hash"] = "min_hash"
    ngram: int = Field(default=5, ge=1, le=64)
    """Words of an n-gram. A shorter document is one n-gram of all its words."""
    fold: list[Literal["numbers", "operators"]] = []
    """What is taken for equal beyond upper case, accents and punctuation, which never count. `numbers`: every number is the
    same one; `operators`: + - * / < > = and other symbols are left out, as FineWeb's rules have both. Without it lines of
    arithmetic, tables and code that differ in figures or signs alone are no copies of each other; with it pages that a
    date or a counter tells apart are."""
    bands: int = Field(default=20, ge=1)
    """Bands: more of them find more pairs and make more work; what is linked wrongly, comparison keeps."""
    rows: int = Field(default=8, ge=1)
    """MinHash values of a band. Of pairs with similarity s the share 1 - (1 - s^rows)^bands is linked: with 20 x 8 69% at
    0.7, 97% at 0.8, all but 1 in 70,000 at 0.9."""
    verify: bool = True
    """Compare what is linked exactly. Without it all of a cluster but the first is dropped, documents that are no duplicates
    among them."""
    similarity: float = Field(default=0.7, gt=0, le=1)
    """Jaccard similarity from which on a document is dropped."""
    max_cluster: int = Field(default=10_000, ge=2)
    """A larger cluster is cut into groups of so many, in order, each compared within itself."""
    max_keepers: int = Field(default=1000, ge=1)
    """A document is compared with so many of those that stayed in its group, the first ones."""
    against: list[DocumentsRef] = Field(default_factory=list)
    """Earlier corpora: what is similar to one of their documents is dropped here, and they stay as they are."""
    measure_recall: int = Field(default=0, ge=0)
    """Compare about so many documents all with all, and report which share of pairs of 0.8 and more was found."""

    @property
    def shingling(self) -> Shingling:
        """How a document becomes a set of n-grams."""
        from raylm.prepare.dedup.fuzzy.words import Fold, Shingling

        return Shingling(self.ngram, Fold("numbers" in self.fold, "operators" in self.fold))

    def sweep(self, corpus: Corpus) -> Swept:
        """Reason: near_duplicate."""
        from raylm.prepare.dedup.fuzzy import passes
        from raylm.prepare.dedup.fuzzy.components import settle
        from raylm.prepare.dedup.fuzzy.words import VERSION

        view, scratch = corpus.joined(self.against), corpus.scratch
        shards, rows = len(view.shards), view.num_rows
        # marks that another card or other hashes left are not taken
        card = f"{self.fingerprint()}-{VERSION}"
        keys = corpus.parts(_KEY_BYTES * self.bands, rows)
        sign = partial(passes.sign, self.shingling, self.bands, self.rows, self.measure_recall, view, scratch, keys)
        scattered = ("keys", "sample") if self.measure_recall else ("keys",)
        signed = corpus.over_shards("sign", view, sign, scattered, of=keys, card=card)
        nodes = corpus.parts(_NODE_BYTES, rows, least=1)
        corpus.over_parts("edges", keys, partial(passes.edges, scratch, shards, nodes), ("large-0",), nodes=nodes, card=card)
        stars = settle(corpus, keys, nodes, card=card)
        group = partial(passes.groups, self.max_cluster, view, scratch, stars, nodes)
        grouped = corpus.over_parts("groups", nodes, group, stars=list(stars), card=card)
        corpus.settle("groups", nodes, view.shards)
        parts = corpus.parts(*_verified_bytes(signed, grouped))
        send = partial(passes.send_sets, self.shingling if self.verify else None, view, scratch, nodes, parts)
        corpus.over_shards("send", view, send, ("sets",), of=parts, nodes=nodes, card=card)
        verify = partial(passes.verify, self.similarity if self.verify else None, self.max_keepers, view, scratch)
        judged = corpus.over_parts("verify", parts, verify, card=card)
        facts = _facts(grouped, judged)
        if self.measure_recall:
            facts["recall"] = self._recall(corpus, view, parts, card)
        return Swept(parts, facts)

    def _recall(self, corpus: Corpus, view: Any, parts: int, card: str) -> Plain:
        from raylm.prepare.dedup.fuzzy.recall import SIMILAR, measure

        work = partial(measure, view, corpus.scratch, parts)
        mark = corpus.over_parts("recall", 1, work, decided=parts, card=card)[0]
        share = round(mark["found"] / mark["pairs"], 4) if mark["pairs"] else None
        return {"similarity": SIMILAR, "documents": mark["documents"], "pairs": mark["pairs"], "share_found": share}


def _verified_bytes(signed: list[Plain], grouped: list[Plain]) -> tuple[float, int]:
    """(bytes of a document that is compared, how many are)."""
    documents = max(sum(mark["documents"] for mark in signed), 1)
    shingles = sum(mark["shingles"] for mark in signed)
    return _MEMBER_BYTES + 8 * shingles / documents, sum(mark["grouped"] for mark in grouped)


def _facts(grouped: list[Plain], judged: list[Plain]) -> dict[str, Any]:
    """Counts over all tasks, the same however they were cut."""
    from raylm.prepare.dedup.fuzzy.passes import BINS, EXAMPLES

    shown = sorted((example for mark in judged for example in mark["examples"]), key=lambda example: example["first"])
    return {
        "dropped": sum(mark["dropped"] for mark in judged),
        "kept_after_comparison": sum(mark["kept"] for mark in judged),
        "candidates": sum(mark["clustered"] for mark in grouped),
        "clusters": sum(mark["clusters"] for mark in grouped),
        "largest_cluster": max(mark["largest"] for mark in grouped),
        "clusters_over_cap": sum(mark["over_cap"] for mark in grouped),
        "similarities": {
            f"{at / BINS:.2f}": sum(counts)
            for at, counts in enumerate(zip(*(mark["similarities"] for mark in judged), strict=True))
        },
        "examples": [{"size": example["size"], "documents": example["documents"]} for example in shown[:EXAMPLES]],
    }
