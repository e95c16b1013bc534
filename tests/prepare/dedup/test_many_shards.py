"""More shards than files that a partition reads: what is merged and settled on the way changes no decision."""

from __future__ import annotations

import random
from typing import Any

import pytest

from raylm.core.config import WorkerSpec, digest_of
from raylm.data import shuffle
from raylm.data.marks import read_mark
from raylm.prepare.corpus import Corpus
from raylm.prepare.dedup.exact import Exact
from raylm.prepare.dedup.fuzzy import words
from raylm.prepare.dedup.lines import Lines
from raylm.prepare.dedup.min_hash import MinHash
from raylm.prepare.dedup.substring import Substring
from raylm.prepare.stage import write_units
from tests.prepare.corpora import corpus_of, decided, left, table_of


class Here(Corpus):
    """A corpus whose passes run in this process, in so many partitions as it is told; `passes` are their names."""

    of = 1
    passes: list[str]
    dies_before = ""

    def parts(self, row_bytes, num_rows=None, least=None):
        return self.of

    def map(self, name, units, work, unit="shards"):
        if name == self.dies_before:
            raise Killed
        self.passes.append(name)
        return [self._once(name, at, plain, work) for at, plain in enumerate(units)]

    def _once(self, name, at, plain, work):
        marks = self._ctx.work
        if (mark := read_mark(marks, name, at, plain)) is None:
            mark = {"unit": digest_of(plain), **work(at, plain)}
            marks.write_json(f"{name}-{at:05d}.json", mark)
        return mark


class Killed(Exception):
    """A run ends in the middle."""


def here(root, table, cuts: int, of: int) -> Here:
    made = corpus_of(root, table, cuts)
    corpus = Here(made._ctx, WorkerSpec(count=of), made.view, made.scratch, "")
    corpus.of, corpus.passes = of, []
    return corpus


def articles() -> list[str]:
    """Texts with lines, runs of words and whole documents in common."""
    draw = random.Random(1)
    words = ["".join(draw.choices("abcdefgh", k=5)) for _ in range(300)]
    shared = " ".join(draw.choices(words, k=60))
    made = []
    for at in range(30):
        own = " ".join(draw.choices(words, k=80))
        made.append(f"{own}\nthis line stands in many of them\n{shared if at % 4 == 0 else own[::-1]}")
    return [*made, *made[:6], *(f"{text} and more" for text in made[6:12])]


CARDS: list[Any] = [Exact(), Lines(), Substring(), MinHash(measure_recall=20, max_cluster=3)]


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.kind)
def test_many_shards_and_partitions_decide_as_one_does(card, tmp_path, monkeypatch):
    table = table_of(articles())
    plain, texts = decided(here(tmp_path / "one", table, 1, 1), card), left(here(tmp_path / "text", table, 1, 1), card)
    assert plain[0], "nothing is decided at all"
    monkeypatch.setattr(shuffle, "MOST", 3)
    many = here(tmp_path / "many", table, 11, 5)
    assert decided(many, card) == plain
    assert {"settle-decisions", "merge-decisions"} <= set(many.passes)
    assert left(here(tmp_path / "again", table, 8, 4), card) == texts


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.kind)
@pytest.mark.parametrize(("before", "after"), [(5, 2), (2, 5)])
def test_a_run_that_goes_on_in_other_partitions_decides_the_same(card, before, after, tmp_path, monkeypatch):
    # `workers.count` is no part of a stage's identity: what was merged of other partitions must not be read as of these
    table = table_of(articles())
    plain = decided(here(tmp_path / "one", table, 1, 1), card)
    monkeypatch.setattr(shuffle, "MOST", 3)
    killed = here(tmp_path / "many", table, 11, before)
    killed.dies_before = "settle-decisions"
    with pytest.raises(Killed):
        decided(killed, card)
    assert any(name.startswith("merge-") for name in killed.passes)
    assert decided(here(tmp_path / "many", table, 11, after), card) == plain


def test_what_was_merged_of_other_hashes_is_not_taken(tmp_path, monkeypatch):
    # an upgrade in the middle of a run: its groups and decisions are other ones
    card, texts = MinHash(measure_recall=20, max_cluster=3), articles()
    plain = decided(here(tmp_path / "one", table_of(texts), 1, 1), card)
    monkeypatch.setattr(shuffle, "MOST", 3)
    before = decided(here(tmp_path / "many", table_of(texts[::-1]), 11, 5), card)
    assert before[0] != plain[0]
    monkeypatch.setattr(words, "VERSION", "another")
    assert decided(here(tmp_path / "many", table_of(texts), 11, 5), card) == plain


def test_what_was_written_by_other_hashes_is_not_taken(tmp_path, monkeypatch):
    """An upgrade between the sweep and the end of the write pass."""
    units = []
    for version in (1, 2):
        monkeypatch.setattr(words, "VERSION", version)
        corpus = here(tmp_path / str(version), table_of(articles()), 2, 2)
        MinHash().sweep(corpus)
        units.append(write_units(corpus.view, [], [corpus.decided_by]))
    assert [unit["shard"] for unit in units[0]] == [unit["shard"] for unit in units[1]]
    assert all(digest_of(one) != digest_of(other) for one, other in zip(*units, strict=True))
