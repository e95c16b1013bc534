"""Runs of words: against comparing every pair of places, at all lengths; stretches and shares by hand."""

import random

import numpy as np

from raylm.prepare.filters.overlap import Index, Part, _hashes, _sums


def slow(parts, texts, ngram):
    found = []
    for text in texts:
        words, row = text.split(), {}
        for number, part in enumerate(parts):
            length = min(len(part.words), ngram)
            runs = {tuple(words[at : at + length]) for at in range(len(words) - length + 1)}
            starts = {at for at in range(len(part.words) - length + 1) if part.words[at : at + length] in runs}
            if starts:
                row[number] = starts
        found.append(row)
    return found


def test_against_every_pair_of_places():
    draw = random.Random(0)
    for ngram in (1, 3, 5):
        for _ in range(30):
            parts = [Part("set:0", "question", tuple(draw.choices("abc", k=draw.randint(1, 9)))) for _ in range(6)]
            texts = [" ".join(draw.choices("abcd", k=draw.choice([0, 1, 4, 30]))) for _ in range(8)]
            assert Index(parts, ngram).matches(texts) == slow(parts, texts, ngram)


def test_a_run_does_not_reach_into_the_next_text():
    index = Index([Part("s:0", "question", ("a", "b", "c"))], 3)
    assert index.matches(["x a b", "c", "", "a b c"]) == [{}, {}, {}, {0: {0}}]
    assert index.matches([]) == [] and index.matches([""]) == [{}]


def test_share_and_the_longest_stretch():
    index = Index([Part("s:0", "question", tuple("abcdefgh")), Part("s:1", "answer", ("p", "q", "r", "s"))], 3)
    (found,) = index.matches(["A, B; c - x c d e f! x q r s"])
    assert found == {0: {0, 2, 3}, 1: {1}}
    best = index.best(found, 3)
    assert (best.part.where, best.share, best.text) == ("s:0", 0.5, "c d e f")


def test_hash_of_a_run_is_the_same_everywhere():
    words = [str(at % 7) for at in range(100)]
    hashes = _hashes(*_sums(words), 5)
    assert len(hashes) == 96 and len(np.unique(hashes)) == 7
    assert (hashes[:89] == hashes[7:]).all() and _hashes(*_sums(words[3:8]), 5)[0] == hashes[3]
    assert len(_hashes(*_sums(words[:4]), 5)) == 0


def test_runs_that_many_parts_share_are_not_looked_for_nor_those_beside_them():
    shared = tuple("abcdef")
    parts = [Part(f"s:{at}", "question", (*shared, *(f"{at}{letter}" for letter in "uvwxyz"))) for at in range(5)]
    parts.append(Part("s:5", "question", (*shared, "end")))
    index = Index(parts, 4, 0.5)
    texts = ["a b c d e f", "d e f 0u", "e f 0u 0v", "c d e f end", "0u 0v 0w 0x"]
    # of the last part nothing else is left
    assert [set(found) for found in index.matches(texts)] == [set(), set(), {0}, {5}, {0}]
    assert index.num_common == 0 and Index(parts, 4).matches(texts[:1])[0].keys() == {0, 1, 2, 3, 4, 5}
    assert Index([*parts[:4], Part("s:4", "question", shared)], 4, 0.5).num_common == 1


def test_an_instruction_in_front_is_not_looked_for_alone():
    index = Index([Part("s:0", "question", tuple("abcdefghij"), 6), Part("s:1", "question", tuple("klmnopq"), 6)], 3)
    assert [set(found) for found in index.matches(["a b c d e f g", "g h i", "k l m n o", "o p q"])] == [set(), {0}, set(), {1}]
