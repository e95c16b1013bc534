"""Fertility: hand-counted, and the same however the documents are split over shards."""

import numpy as np

from raylm.tokenize.fertility import fertility, rates

SOURCES = ["a", "b", "a", "c"]
TEXTS = ["two words", "naïve", " \n", "x y z"]
OFFSETS = np.array([0, 3, 5, 6, 9])


def test_against_hand_counts():
    sums = fertility(SOURCES, TEXTS, OFFSETS)
    assert sums["a"] == {"documents": 2, "words": 2, "bytes": 11, "tokens": 4}
    assert sums["b"] == {"documents": 1, "words": 1, "bytes": 6, "tokens": 2}
    made = rates([sums])
    assert list(made) == ["all", "a", "c", "b"]
    assert made["a"]["tokens_per_word"] == 2.0 and made["a"]["bytes_per_token"] == 2.75
    assert made["all"] == {
        "documents": 4,
        "words": 6,
        "bytes": 22,
        "tokens": 9,
        "tokens_per_word": 1.5,
        "bytes_per_token": 2.4444,
    }


def test_shards_add_up_and_the_rest_is_one_row():
    whole = rates([fertility(SOURCES, TEXTS, OFFSETS)])
    parts = [fertility(SOURCES[at : at + 1], TEXTS[at : at + 1], OFFSETS[at : at + 2]) for at in range(4)]
    assert rates(parts) == rates(parts[::-1]) == whole
    assert list(rates(parts, most=1)) == ["all", "a", "other sources"] and rates(parts, most=1)["other sources"]["tokens"] == 5


def test_nothing_to_divide_by():
    assert rates([fertility(["a"], ["\n"], np.array([0, 0]))])["a"]["tokens_per_word"] == 0.0
    assert rates([]) == {}


def test_a_shard_of_many_sources_leaves_few_and_all_still_add_up():
    sources, texts = [f"file-{at}" for at in range(10)], ["a b"] * 10
    shards = [fertility(sources, texts, np.cumsum([0, *range(1 + first, 11 + first)]), most=3) for first in (0, 10)]
    assert [[*sums] for sums in shards] == [["file-9", "file-8", "file-7", "other sources"]] * 2
    made = rates(shards, most=2)
    assert [*made] == ["all", "file-9", "file-8", "other sources"]
    assert made["all"]["tokens"] == sum(range(1, 21)) and made["all"]["documents"] == 20
    assert made["file-9"]["tokens"] == 30 and made["other sources"]["tokens"] == 210 - 30 - 28
