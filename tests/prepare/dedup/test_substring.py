"""Every run that an earlier document has too is found whole, and nothing else is."""

import numpy as np
import pytest

from raylm.prepare.dedup.spans.shards import Texts
from raylm.prepare.dedup.spans.words import Winnow, anchors_of, word_bounds
from raylm.prepare.dedup.substring import Substring, _pieces
from tests.prepare.corpora import corpus_of, decided, left, table_of


def _texts(texts):
    data = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in data])])
    return Texts(np.arange(len(texts)), None, np.frombuffer(b"".join(data), np.uint8), offsets)


def _words(text):
    data = text.encode()
    return [data[start:end].decode() for start, end in zip(*word_bounds(np.frombuffer(data, np.uint8)), strict=True)]


def test_words_are_divided_by_white_space_and_by_scripts_without_it():
    assert _words(" One two,\nthree\u00a0four\u3000\u2003five ") == ["One", "two,", "three", "four", "five"]
    assert _words("é🙂x 日本語text ไท") == ["é🙂x", "日", "本", "語", "text", "ไ", "ท"]
    assert _words("𠀀a 한국어 \u0085") == ["𠀀", "a", "한국어"]
    assert _words("") == [] and _words("\u2009") == []


@pytest.mark.parametrize("least", [4, 5, 9])
def test_any_shared_run_has_a_common_anchor(least):
    draw, winnow = np.random.default_rng(least), Winnow(least)
    assert winnow.gram + winnow.window - 1 == least and winnow.side + winnow.gram == least
    for _ in range(200):
        run = [f"w{word}" for word in draw.integers(0, draw.integers(1, 30), least)]
        texts = [[f"{side}{n}" for n in draw.integers(0, 3, draw.integers(0, 9))] for side in "abcd"]
        before = len(texts[0]), len(texts[2])
        doc, place, hashes = anchors_of(
            _texts([" ".join(texts[0] + run + texts[1]), " ".join(texts[2] + run + texts[3])]), winnow
        )
        found = [
            {
                (h, p - before[n])
                for d, p, h in zip(doc, place, hashes, strict=True)
                if d == n and 0 <= p - before[n] <= least - winnow.gram
            }
            for n in (0, 1)
        ]
        assert found[0] & found[1]


def test_a_large_group_is_cut_in_pieces_that_all_have_its_first_members(monkeypatch):
    monkeypatch.setattr("raylm.prepare.dedup.substring._PIECE", 3)
    index, piece = _pieces(np.array([10, 20]), np.array([9, 2]), 2)
    held = {n: sorted(index[piece == n].tolist()) for n in range(3)}
    assert held == {0: [10, 11, 12, 13, 14, 20, 21], 1: [10, 11, 15, 16, 17], 2: [10, 11, 18]}


def _reference(texts, least, within=False):
    """(document, first word, end word) of all maximal runs that are shared with an earlier place, by comparing every
    two places; united per document."""
    words = [text.split() for text in texts]
    lost = []
    for late, mine in enumerate(words):
        marked = np.zeros(len(mine), dtype=bool)
        for early in range(late + 1 if within else late):
            other = words[early]
            for shift in range(-len(mine) + 1, len(other)):
                if early == late and -shift < least:
                    continue
                places = range(max(0, -shift), min(len(mine), len(other) - shift))
                run = 0
                for at in places:
                    run = run + 1 if mine[at] == other[at + shift] else 0
                    if run >= least:
                        marked[at - run + 1 : at + 1] = True
        lost.append(marked)
    return [
        " ".join(word for word, gone in zip(mine, marked, strict=True) if not gone)
        for mine, marked in zip(words, lost, strict=True)
    ]


def _random(draw, size=60):
    """Texts over few words, with passages of others in them."""
    passages = [[f"p{at}x{word}" for word in draw.integers(0, 40, draw.integers(3, 30))] for at in range(12)]
    made = []
    for _ in range(size):
        words = []
        for _ in range(draw.integers(1, 5)):
            words += [f"w{word}" for word in draw.integers(0, 3 if draw.random() < 0.3 else 60, draw.integers(0, 12))]
            passage = passages[draw.integers(len(passages))]
            cut = draw.integers(0, len(passage))
            words += passage[cut:] if draw.random() < 0.5 else passage[: cut + 1]
        made.append(" ".join(words))
    return made


@pytest.mark.ray
@pytest.mark.parametrize(("least", "within"), [(4, False), (7, False), (6, True)])
def test_what_is_left_is_what_comparing_all_places_leaves(tmp_path, workers, least, within):
    texts = _random(np.random.default_rng(least))
    corpus = corpus_of(tmp_path, table_of(texts), 3, workers, 2)
    card = Substring(min_words=least, within=within, max_occurrences=10_000)
    wanted = _reference(texts, least, within)
    assert [" ".join(text.split()) for text in left(corpus, card)] == [text for text in wanted if text]
    assert wanted != texts


@pytest.mark.ray
def test_cuts_are_of_whole_words_with_reasons_and_examples(tmp_path, workers):
    run = " ".join(f"wörd{at}" for at in range(20))
    texts = [f"First.\n{run} and on", f"Second:  {run}\n\nthe end", run, f"{run} {run}", "other", f"Third {run}"]
    corpus = corpus_of(tmp_path, table_of(texts, records={3: {"messages": []}}), 2, workers)
    card = Substring(min_words=10, min_chars=6)
    found, facts = decided(corpus, card)
    assert [(row["row"], row["cuts"] is None) for row in found] == [(1, False), (2, True), (5, True)]
    assert {row["because"] for row in found} == {table_of(texts)["id"][0].as_py()} and found[0]["reason"] == "repeated_text"
    assert left(corpus, card) == [texts[0], "Second:  the end", texts[3], "other"]
    assert facts["cut"] == 1 and facts["dropped"] == 2 and facts["lengths"] == {"4": 3} and facts["anchors_capped"] == 0
    assert facts["examples"][0] == {"words": 20, "because": found[0]["because"], "text": run}


@pytest.mark.ray
@pytest.mark.parametrize("texts", [["one two three", "four"], ["", " "], []])
def test_nothing_to_cut(tmp_path, workers, texts):
    found, facts = decided(corpus_of(tmp_path, table_of(texts), 2, workers, 2), Substring(min_words=4))
    assert found == [] and facts["cut"] == facts["dropped"] == 0 and facts["examples"] == []


@pytest.mark.ray
def test_any_sharding_decides_alike_under_a_cap_too_and_a_lost_pass_is_done_again(tmp_path, workers):
    table, card = table_of(_random(np.random.default_rng(5), 90)), Substring(min_words=5, max_occurrences=2)
    made = []
    for cuts, count in [(1, 1), (2, 2), (7, 4)]:
        corpus = corpus_of(tmp_path / str(cuts), table, cuts, workers, count)
        made.append(decided(corpus, card))
    assert made[0] == made[1] == made[2]
    assert made[0][0] and made[0][1]["anchors_capped"] > 0
    work = corpus._ctx.work
    for name in work.files():
        if name.startswith(("0-card-cut", "0-card-around-00001", "0-card-runs-00002")) and name.endswith(".json"):
            work.remove(name)
    assert decided(corpus, card) == made[2]


@pytest.mark.ray
def test_an_earlier_corpus_is_compared_with_and_stays(tmp_path, workers):
    from raylm.core.artifact import Documents
    from raylm.data.shards import write_parquet
    from tests.stages import context

    run = " ".join(f"w{at}" for at in range(30))
    ctx = context(tmp_path, "old")
    write_parquet(ctx.out, "documents-000000-00000.parquet", table_of([f"old {run}", run]))
    ctx.commit(Documents, facts={}, rows={"documents-000000-00000.parquet": 2})
    corpus = corpus_of(tmp_path, table_of(["new", f"new {run} new"]), 2, workers)
    assert left(corpus, Substring(min_words=20, against=["old"])) == ["new", "new new"]
