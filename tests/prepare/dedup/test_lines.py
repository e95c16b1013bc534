"""The first document that has a line keeps it, however the rows are cut into shards."""

from collections import Counter

import numpy as np
import pytest

from raylm.prepare.dedup.exact import normal
from raylm.prepare.dedup.lines import Lines
from raylm.prepare.dedup.spans.cuts import Cuts, merged
from raylm.prepare.dedup.spans.shards import Texts
from raylm.prepare.dedup.spans.units import hashes_of, units_of
from tests.prepare.corpora import corpus_of, decided, left, table_of


def _texts(*texts):
    data = [text.encode() for text in texts]
    offsets = np.concatenate([[0], np.cumsum([len(one) for one in data])])
    return Texts(np.arange(len(texts)), None, np.frombuffer(b"".join(data), np.uint8), offsets)


def _spans(texts, paragraphs):
    units = units_of(texts, paragraphs)
    data = texts.data.tobytes()
    return [(int(d), int(n), data[s:e].decode(), data[e:stop].decode()) for d, n, s, e, stop in zip(*units, strict=True)]


def test_lines_and_paragraphs_are_found_with_what_follows_them():
    texts = _texts("a\n\n b\nc", "", "\n \n", "d\n\n\n")
    assert _spans(texts, False) == [(0, 0, "a", "\n"), (0, 1, " b", "\n"), (0, 2, "c", ""), (3, 0, "d", "\n")]
    assert _spans(texts, True) == [(0, 0, "a", "\n\n"), (0, 1, " b\nc", ""), (3, 0, "d", "\n\n\n")]


def test_a_hash_is_that_of_the_normal_form():
    lines = ["Hello  World", "\thello world \r", "\uff28ello world", "Straße\u00a0X", "straße x", "hello world!", "a\x1cb", "a b"]
    texts = _texts(*lines)
    hashes, chars = hashes_of(texts.data, units_of(texts, False))
    assert chars.tolist() == [len(normal(line)) for line in lines]
    same = {line: set(np.flatnonzero(hashes == value).tolist()) for line, value in zip(lines, hashes, strict=True)}
    for line, equal in same.items():
        assert equal == {at for at, other in enumerate(lines) if normal(other) == normal(line)}


def test_a_cut_at_the_end_leaves_no_loose_end_and_too_little_is_dropped():
    assert merged([(0, 2), (2, 4), (3, 5), (7, 9)]) == [(0, 5), (7, 9)]
    cuts = Cuts("why", 3)
    cuts.take(4, b"keep\n\ngo\n", [(6, 9)])
    cuts.take(5, b"go\n\ngo", [(0, 3), (4, 6)])
    cuts.take(6, "é é go".encode(), [(6, 8)], because="x")
    rows = cuts.table().to_pylist()
    assert [row["cuts"] for row in rows] == [[4, 9], None, [5, 8]]
    assert cuts.counts() == {"cut": 2, "dropped": 1, "bytes_cut": 5 + 6 + 3} and rows[2]["because"] == "x"


def _reference(texts, card):
    """Line by line in Python, over all texts at once."""
    seen, left = Counter(), []
    lines = [text.split("\n") for text in texts]
    key = normal
    total = Counter()
    for document in lines:
        found = [key(line) for line in document if len(key(line)) >= card.min_line_chars]
        total.update(found if card.within else set(found))
    for document in lines:
        kept, own = [], Counter()
        for line in document:
            word = key(line)
            lost = False
            if len(word) >= card.min_line_chars and total[word] > card.max_documents:
                earlier = seen[word] + (own[word] if card.within else 0)
                lost = card.keep == "none" or earlier > 0
            own[word] += 1
            if not lost:
                kept.append(line)
        seen.update(own)
        if len(kept) == len(document):
            left.append("\n".join(document))
        elif "".join(kept).strip():
            left.append("\n".join(kept))
    return left


def _random(draw, size=120):
    lines = ["", "  ", *(f"Line {at} of many, with words" for at in range(90)), "short", "línea  con Ácentos y más"]
    # the last line is one of a kind: what a cut at the very end takes along has a test of its own
    return [
        "\n".join([*(lines[at] for at in draw.integers(0, len(lines), draw.integers(1, 9))), f"End {n}"]) for n in range(size)
    ]


@pytest.mark.ray
@pytest.mark.parametrize(
    "card",
    [Lines(), Lines(within=True, max_documents=2, min_line_chars=3), Lines(keep="none", max_documents=3)],
    ids=["first", "within", "boilerplate"],
)
def test_what_is_left_is_what_a_plain_loop_leaves(tmp_path, workers, card):
    texts = _random(np.random.default_rng(0))
    corpus = corpus_of(tmp_path, table_of(texts), 3, workers, 2)
    assert left(corpus, card) == _reference(texts, card)


@pytest.mark.ray
def test_paragraphs_records_reasons_and_examples(tmp_path, workers):
    same = "A paragraph of\ntwo lines, long enough."
    texts = [f"one\n\n{same}\n\ntail", same, f"{same}\n\nnew text", same, "x"]
    corpus = corpus_of(tmp_path, table_of(texts, records={3: {"messages": []}}), 2, workers)
    found, facts = decided(corpus, Lines(by="paragraph"))
    size = len(same.encode())
    assert [(row["row"], row["reason"], row["cuts"]) for row in found] == [
        (1, "repeated_paragraphs", None),
        (2, "repeated_paragraphs", [0, size + 2]),
    ]
    assert left(corpus, Lines(by="paragraph")) == [texts[0], "new text", same, "x"]
    assert facts == {
        "lines": 7,
        "repeated": 1,
        "lines_cut": 2,
        "cut": 1,
        "dropped": 1,
        "bytes_cut": 2 * size + 2,
        "examples": [{"times": 3, "text": same}],
    }


@pytest.mark.ray
@pytest.mark.parametrize("texts", [["a line of some length", "another one, as long"], ["", " \n"], []])
def test_nothing_to_cut(tmp_path, workers, texts):
    found, facts = decided(corpus_of(tmp_path, table_of(texts), 2, workers, 2), Lines())
    assert found == [] and facts["repeated"] == 0 and facts["examples"] == []


@pytest.mark.ray
def test_any_sharding_decides_alike_and_a_pass_that_was_lost_is_done_again(tmp_path, workers):
    table, card = table_of(_random(np.random.default_rng(1))), Lines(min_line_chars=3)
    made = []
    for cuts, count in [(1, 1), (2, 2), (7, 4)]:
        corpus = corpus_of(tmp_path / str(cuts), table, cuts, workers, count)
        made.append(decided(corpus, card))
    assert made[0] == made[1] == made[2] and made[0][0]
    # as after a kill: the marks of the last pass, and half of those before it, are not there
    work = corpus._ctx.work
    for name in work.files():
        if name.startswith(("0-card-cut", "0-card-repeated-00001")) and name.endswith(".json"):
            work.remove(name)
    assert decided(corpus, card) == made[2]
