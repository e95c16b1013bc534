"""The `contamination` task: items of the other tasks in the documents that a model really learned from."""

from __future__ import annotations

import re
from collections import defaultdict
from collections.abc import Iterator
from typing import Any, ClassVar, Literal, NamedTuple

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.data.overlap import LEAST, Overlap
from raylm.evaluate.instances import Graded, asked_id
from raylm.trainer.learned import Lineage, documents_of_row, lineage_of, texts_of

_ADDED = re.compile(r"\n\((?:ground truth|hidden): ")
"""What tasks write behind a question for the reader."""
_SHOWN = 3
_LONG = 8
"""Runs of `LEAST` words of an item, below which a share of them is chance."""


class Found(NamedTuple):
    """What was found of one item."""

    share: float
    """Of its runs of words, in all documents together."""
    where: list[tuple[str, float]]
    """(document, the share in it alone), the largest first."""


class Near(NamedTuple):
    """The document that is most like an item."""

    share: float
    """Of the item's runs of `LEAST` words."""
    document: str


class Contamination(Config):
    """Runs of 13 words of each item (https://arxiv.org/abs/2005.14165) are looked for in the rows that the ledgers of the model
    and of those before it name: what it was trained on, and not what lay beside it. Items that were learned from in other words
    have no such run: their runs of 5 words are looked for as well, in single documents. Runs that many items share are their form
    and no evidence. Weights that came from elsewhere have no ledger: what they learned from is not known, and that is said."""

    needs: ClassVar[str] = "instances"
    better: ClassVar[dict[str, str]] = {"contamination": "low"}

    kind: Literal["contamination"] = "contamination"
    num_words: int = Field(default=13, ge=LEAST)
    """Words of a run; an item with fewer is looked for as a whole."""
    share: float = Field(default=0.5, gt=0, le=1)
    """An item is contaminated when this share of its runs was learned from."""
    near: float = Field(default=0.5, gt=0, le=1)
    """An item of 12 words and more is contaminated, too, when one document has this share of its runs of 5 words: a near
    duplicate (what MinHash estimates, counted; a document may be longer than the item). 1 asks for all of them."""
    boilerplate: float = Field(default=0.1, ge=0, le=1)
    """Runs in a larger share of a task's items are not looked for."""

    def look(self, checkpoint: Any, tasks: dict[str, list[Graded]]) -> tuple[list[Graded], list[str]]:
        """One instance for each item of each task, and what is to be said of it.

        Args:
            checkpoint: the model's artifact.
            tasks: its graded instances.

        Raises:
            DataError: nothing is known of what it learned from, or no item has enough words.
        """
        lineage = lineage_of(checkpoint)
        if not lineage.parts:
            came = ", ".join(lineage.unknown) or "no ledger names any row"
            raise DataError(f"nothing is known of what it learned from: {came}", where=checkpoint.uri)
        graded: list[Graded] = []
        told = [f"what {name} learned from before is not known" for name in lineage.unknown]
        short = 0
        for task, items in tasks.items():
            texts = [_ADDED.split(one.asked)[0] for one in items]
            overlap = Overlap(texts, self.num_words, self.boilerplate)
            shingles = Overlap(texts, LEAST, self.boilerplate)
            found, near = _found(overlap, shingles, lineage)
            short += sum(not size for size in overlap.sizes)
            for at, (item, text) in enumerate(zip(items, texts, strict=True)):
                if overlap.sizes[at]:
                    graded.append(self._graded(task, item, text, found.get(at), near.get(at)))
        if not graded:
            raise DataError(f"no item has {LEAST} words that are its own: nothing can be looked for", where=checkpoint.uri)
        if short:
            told.append(f"of {short} items nothing can be said: they have fewer than {LEAST} words of their own")
        return graded, told

    def compared(self, graded: list[Graded], tasks: dict[str, list[Graded]], summaries: dict[str, Any]) -> list[str]:
        """Sentences on the other tasks' metrics with and without contaminated items.

        Args:
            graded: of `look`.
            summaries: what makes a task's metrics of its instances.
        """
        bad = {(one.facts["task"], one.facts["item"]) for one in graded if one.values["contamination"]}
        told = []
        for task, items in tasks.items():
            clean = [one for one in items if (task, one.id) not in bad]
            if len(clean) == len(items):
                continue
            number = f"{len(items) - len(clean)} of {len(items)} items of {task} are contaminated"
            if not clean:
                told.append(f"{number}: nothing is left without them")
                continue
            whole, rest = summaries[task](items), summaries[task](clean)
            parts = [f"{name} {whole[name]:.4f}, without them {rest[name]:.4f}" for name in whole if name in rest]
            told.append(f"{number}: {'; '.join(parts)}")
        return told

    def _graded(self, task: str, item: Graded, text: str, found: Found | None, near: Near | None) -> Graded:
        share = found.share if found else 0.0
        where = [f"{part:.2f} of it in {name}" for name, part in found.where[:_SHOWN]] if found else []
        facts = {"task": task, "item": item.id, "share": f"{share:.3f}"}
        alike = near is not None and near.share >= self.near
        if near is not None:
            facts["near"] = f"{near.share:.3f}"
            if alike and share < self.share:
                where.append(f"a near duplicate: {near.share:.2f} of its runs of {LEAST} words in {near.document}")
        if found and found.where and "#" in found.where[0][0]:
            facts["source"] = found.where[0][0].rpartition("#")[0]
        return Graded(
            asked_id(task, item.id),
            {"contamination": float(share >= self.share or alike)},
            {"contamination": 1.0},
            facts,
            text,
            "\n".join([f"{share:.2f} of its runs of words were learned from", *where]),
        )


def _found(overlap: Overlap, shingles: Overlap, lineage: Lineage) -> tuple[dict[int, Found], dict[int, Near]]:
    """What of each item stands in rows that were learned from, and the document that each is most like."""
    near: dict[int, Near] = {}
    places: dict[int, set[int]] = defaultdict(set)
    where: dict[int, dict[str, int]] = defaultdict(dict)
    for part in lineage.parts:
        for row, text in texts_of(part):
            if alike := shingles.found(text):
                for name, of_document in _by_document(shingles, part.uri, row, alike):
                    for item, found in of_document.items():
                        share = len(found) / shingles.sizes[item]
                        if shingles.sizes[item] >= _LONG and share > (near[item].share if item in near else 0.0):
                            near[item] = Near(share, name)
            hits = overlap.found(text)
            if not hits:
                continue
            for item, found in hits.items():
                places[item] |= found
            for name, of_document in _by_document(overlap, part.uri, row, hits):
                for item, found in of_document.items():
                    where[item][name] = max(where[item].get(name, 0), len(found))
    whole = {
        item: Found(
            len(found) / overlap.sizes[item],
            sorted(((name, count / overlap.sizes[item]) for name, count in where[item].items()), key=lambda each: -each[1]),
        )
        for item, found in places.items()
    }
    return whole, near


def _by_document(overlap: Overlap, uri: str, row: int, hits: dict[int, set[int]]) -> Iterator[tuple[str, dict[int, set[int]]]]:
    """The hits of a row by document. A run over the edge of two documents is none of either."""
    documents = documents_of_row(uri, row)
    if len(documents) < 2:
        yield (documents[0][0] if documents else f"{uri} row {row}"), hits
        return
    for name, text in documents:
        yield name, overlap.found(text)
