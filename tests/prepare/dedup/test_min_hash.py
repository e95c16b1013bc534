"""Near duplicates go because of a document that stays: the same ones however the work is cut, killed or resumed."""

import os
import signal
from functools import partial
from pathlib import Path

import numpy as np
import pytest

from raylm.core.errors import DataError
from raylm.prepare.corpus import Corpus
from raylm.prepare.dedup.min_hash import MinHash
from tests.prepare.corpora import corpus_of, decided, left, table_of

pytestmark = pytest.mark.ray

PASSES = ("sign", "edges", "large-0", "small-0", "groups", "send", "verify", "recall")
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def articles(families, copies=3, words=120, seed=0):
    """Texts of random words in families: a first one, then copies of which each has some words of its own."""
    draw = np.random.default_rng(seed)
    texts = []
    for _ in range(families):
        first = [f"w{word:x}".translate(_LETTERS) for word in draw.integers(0, 1 << 40, words)]
        for _ in range(copies):
            text = list(first)
            start, size = draw.integers(0, words // 2), draw.integers(0, words // 3)
            text[start : start + size] = [f"v{word:x}".translate(_LETTERS) for word in draw.integers(0, 1 << 40, size)]
            texts.append(" ".join(text))
    return [texts[at] for at in draw.permutation(len(texts))]


def similarity(one, other):
    """Exact Jaccard similarity of word 5-grams."""
    sets = [{tuple(text.split()[at : at + 5]) for at in range(len(text.split()) - 4)} for text in (one, other)]
    return len(sets[0] & sets[1]) / len(sets[0] | sets[1])


class Cut(Corpus):
    """A corpus that is cut into so many partitions as it is told."""

    of = 1

    def parts(self, row_bytes, num_rows=None, least=None):
        return self.of


def cut(corpus, of):
    """The same corpus in `of` partitions, those of nodes too."""
    made = Cut(corpus._ctx, corpus.workers, corpus.view, corpus.scratch, corpus._content)
    made.of = of
    return made


def test_it_goes_because_of_the_most_similar_that_stays(tmp_path, workers):
    texts = articles(30)
    table = table_of(texts)
    rows, facts = decided(corpus_of(tmp_path, table, 3, workers, 2), MinHash(bands=40, rows=3))
    ids, gone = table["id"].to_pylist(), {row["row"]: row for row in rows}
    kept: list[int] = []
    # with 40 x 3 bands a pair of 0.7 is missed once in ten million times
    for at, text in enumerate(texts):
        near = max(((similarity(text, texts[other]), -other) for other in kept), default=(0.0, 0))
        assert (at in gone) == (near[0] >= 0.7)
        if at in gone:
            assert gone[at]["reason"] == "near_duplicate" and gone[at]["because"] == ids[-near[1]]
            assert gone[at]["score"] == pytest.approx(near[0], abs=1e-6) and gone[at]["cuts"] is None
        else:
            kept.append(at)
    assert (
        facts["dropped"] == len(gone) == sum(count for least, count in facts["similarities"].items() if float(least) >= 0.7) > 10
    )
    assert facts["clusters"] <= 30 and facts["largest_cluster"] == 3
    assert facts["kept_after_comparison"] == facts["candidates"] - facts["clusters"] - len(gone) > 0
    first = facts["examples"][0]
    assert first["documents"][0][1:] == [None, None] and first["size"] == len(first["documents"]) and len(facts["examples"]) <= 20


def test_any_sharding_and_number_of_workers_decide_alike(tmp_path, workers):
    table, card = table_of(articles(40, copies=5)), MinHash(measure_recall=100, max_cluster=3)
    made = []
    for at, (cuts, count, parts) in enumerate([(1, 1, 1), (2, 2, 2), (7, 4, 7)]):
        corpus = corpus_of(tmp_path / str(at), table, cuts, workers, count)
        made.append(decided(cut(corpus, parts), card))
    assert made[0] == made[1] == made[2] and made[0][1]["clusters_over_cap"] > 0
    assert made[0][1]["recall"]["documents"] > 50


@pytest.mark.parametrize("stopped", PASSES)
def test_stopped_after_a_pass_it_resumes_there(tmp_path, workers, stopped):
    class Stopped(Cut):
        of = 2

        def map(self, name, units, work, unit="shards"):
            done = super().map(name, units, work, unit)
            if name == stopped:
                raise DataError(f"after {name}")
            return done

    table, card = table_of(articles(12)), MinHash(bands=14, measure_recall=20)
    corpus = corpus_of(tmp_path, table, 2, workers, 2)
    with pytest.raises(DataError, match=f"after {stopped}"):
        card.sweep(Stopped(corpus._ctx, corpus.workers, corpus.view, corpus.scratch, ""))
    before = {path: path.stat().st_mtime_ns for path in Path(corpus._ctx.work.uri).glob("*.json")}
    assert before
    resumed = decided(cut(corpus, 2), card)
    assert all(path.stat().st_mtime_ns == at for path, at in before.items())
    assert resumed == decided(cut(corpus_of(tmp_path / "whole", table, 1, workers), 1), card)


def _die_once(work, flag, at, plain):
    """Do the work, then die before it is marked; the second time go on."""
    made = work(at, plain)
    if not flag.exists():
        flag.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return made


@pytest.mark.slow
# what a pass left is gone on with in `test_stopped_after_a_pass_it_resumes_there`; prepare's own test kills workers
@pytest.mark.long
def test_kill_9_of_a_worker_in_each_pass_changes_nothing(tmp_path, workers):
    class Deadly(Cut):
        of = 2

        def map(self, name, units, work, unit="shards"):
            return super().map(name, units, partial(_die_once, work, tmp_path / f"died-{name}"), unit)

    table, card = table_of(articles(12)), MinHash(bands=14, measure_recall=20)
    corpus = corpus_of(tmp_path / "killed", table, 2, workers, 2)
    killed = decided(Deadly(corpus._ctx, corpus.workers, corpus.view, corpus.scratch, ""), card)
    assert {path.name.removeprefix("died-") for path in tmp_path.glob("died-*")} >= set(PASSES)
    assert killed == decided(corpus_of(tmp_path / "whole", table, 1, workers), card)


def test_what_an_earlier_corpus_holds_is_dropped_and_the_earlier_one_is_kept(tmp_path, workers):
    from raylm.core.artifact import Documents
    from raylm.data.shards import write_parquet
    from tests.stages import context

    texts = articles(3, copies=1)
    old = table_of([texts[0], texts[0] + " end", texts[1]])
    ctx = context(tmp_path, "old")
    write_parquet(ctx.out, "documents-000000-00000.parquet", old)
    ctx.commit(Documents, facts={}, rows={"documents-000000-00000.parquet": 3})
    corpus = corpus_of(tmp_path, table_of([texts[2], texts[0] + " end more", texts[2] + " end"]), 2, workers)
    rows, facts = decided(corpus, MinHash(against=["old"]))
    assert [row["row"] for row in rows] == [1, 2] and facts["dropped"] == 2
    assert rows[0]["because"] == old["id"][1].as_py()


def test_a_cluster_above_the_cap_is_compared_in_groups(tmp_path, workers):
    text = articles(1, copies=1)[0]
    rows, facts = decided(corpus_of(tmp_path, table_of([text] * 10), 3, workers), MinHash(max_cluster=4))
    assert [row["row"] for row in rows] == [1, 2, 3, 5, 6, 7, 9]
    assert (facts["clusters"], facts["clusters_over_cap"], facts["largest_cluster"]) == (1, 1, 10)


def test_without_verification_all_but_the_first_of_a_cluster_go(tmp_path, workers):
    texts = articles(10)
    table, card = table_of(texts), MinHash(bands=40, rows=2, verify=False)
    rows, facts = decided(corpus_of(tmp_path, table, 2, workers), card)
    assert len(rows) == 20 == facts["dropped"] and all(row["score"] is None for row in rows)
    stays = set(table["id"].to_pylist()) - {table["id"][row["row"]].as_py() for row in rows}
    assert {row["because"] for row in rows} == stays and sum(facts["similarities"].values()) == 0


def test_few_texts_and_odd_ones(tmp_path, workers):
    for at, (texts, wanted) in enumerate(
        [
            ([], []),
            (["one text"], ["one text"]),
            (["Same, text!"] * 5, ["Same, text!"]),
            (["...", "...", "--", "\u00ad", "a", "A.", "a b"], ["...", "...", "--", "\u00ad", "a", "a b"]),
        ]
    ):
        assert left(corpus_of(tmp_path / str(at), table_of(texts), 2, workers), MinHash(measure_recall=3)) == wanted


def _truth_set(path):
    """Documents (`name text` a line) and pairs of names (`.truth` beside it), as in McCormick's MinHash tutorial."""
    names, texts = zip(*(line.rstrip("\n").split(" ", 1) for line in path.read_text().splitlines()), strict=True)
    pairs = {frozenset(line.split()) for line in path.with_suffix(".truth").read_text().splitlines()}
    return names, texts, pairs


def _planted(path):
    """A truth set of our own: articles, ten of them twice with a word here and there changed."""
    draw, lines, pairs = np.random.default_rng(5), [], []
    texts = articles(90, copies=1, words=250, seed=5)
    for at, text in enumerate(texts):
        lines.append(f"t{at} {text}")
        if at % 9 == 0:
            words = text.split()
            for place in draw.integers(0, 250, 4):
                words[place] = "changed"
            lines.append(f"t{at + 1000} {' '.join(words)}")
            pairs.append(f"t{at} t{at + 1000}")
    path.write_text("\n".join(lines[at] for at in draw.permutation(len(lines))))
    path.with_suffix(".truth").write_text("\n".join(pairs))
    return path


def test_a_truth_set_is_found_whole_and_nothing_else(tmp_path, workers):
    paths = [_planted(tmp_path / "own.train")]
    if real := os.environ.get("RAYLM_MCCORMICK"):
        paths.append(Path(real))
    for path in paths:
        names, texts, truth = _truth_set(path)
        table = table_of(texts)
        name_of = dict(zip(table["id"].to_pylist(), names, strict=True))
        rows, _ = decided(corpus_of(tmp_path / path.stem, table, 3, workers), MinHash())
        assert {frozenset((names[row["row"]], name_of[row["because"]])) for row in rows} == truth
