"""Band keys: as likely to meet as theory says, and fixed for ever."""

import numpy as np
import pyarrow as pa

from raylm.prepare.dedup.fuzzy.signatures import band_keys, permutations, smallest
from raylm.prepare.dedup.fuzzy.words import Fold
from tests.prepare.dedup.fuzzy.test_words import TEXTS, sets_of


def column(texts):
    return pa.chunked_array([pa.array(texts, pa.large_string())])


def planted(pairs, words=300, seed=0):
    """Pairs of texts of random words, the second with a block of other words: similarities from 0.3 to 1."""
    draw = np.random.default_rng(seed)
    texts = []
    for at in range(pairs):
        one = draw.integers(0, 1 << 40, words)
        other, size = one.copy(), at * words // (2 * pairs)
        other[:size] = draw.integers(0, 1 << 40, size)
        texts += [" ".join(f"w{word:x}".translate(_LETTERS) for word in text) for text in (one, other)]
    return texts


# without digits, of which every number would be the same
_LETTERS = str.maketrans("0123456789", "ghijklmnop")


def jaccards(texts):
    sets = sets_of(texts)
    return np.array([len(one & other) / len(one | other) for one, other in zip(sets[::2], sets[1::2], strict=True)])


def test_pairs_meet_as_often_as_theory_says():
    texts = planted(2000)
    similar = jaccards(texts)
    for bands, rows in ((14, 8), (20, 3)):
        keys = band_keys(column(texts), 5, bands, rows).keys
        met = (keys[0::2] == keys[1::2]).any(axis=1)
        for low in np.arange(0.35, 1.0, 0.05):
            some = (similar >= low) & (similar < low + 0.05)
            chance = 1 - (1 - similar[some] ** rows) ** bands
            spread = np.sqrt((chance * (1 - chance)).sum())
            assert abs(met[some].sum() - chance.sum()) <= 3 * spread + 1, (bands, rows, low)


def test_values_and_draws_are_equal_with_the_probability_of_similarity():
    texts = planted(1000, seed=1)
    similar = jaccards(texts)
    signed = band_keys(column(texts), 5, 112, 1)
    equal = (signed.keys[0::2] == signed.keys[1::2]).mean(axis=1)
    assert abs((equal - similar).mean()) < 0.004
    assert np.std(equal - similar) < 1.2 * np.sqrt((similar * (1 - similar) / 112).mean())
    drawn = signed.draws[0::2] == signed.draws[1::2]
    assert abs(drawn.mean() - similar.mean()) < 4 * np.sqrt((similar * (1 - similar)).sum()) / len(similar)


def test_smallest_values_are_those_of_the_formula():
    slopes, shifts = permutations(5)
    draw = np.random.default_rng(2)
    for count in (1, 3, 4, 9):
        shingles, least = draw.integers(0, 2**64, count, dtype=np.uint64), np.empty(5, np.uint64)
        smallest(shingles, count, slopes, shifts, least)
        for at in range(5):
            values = [(int(slopes[at]) * (int(x) >> 32) + int(shifts[at])) % 2**64 >> 32 for x in shingles]
            assert int(least[at]) >> 32 == min(values)


def test_more_bands_leave_the_first_ones_as_they_are():
    assert (band_keys(column(TEXTS), 5, 20, 8).keys[:, :14] == band_keys(column(TEXTS), 5, 14, 8).keys).all()


def test_no_text_and_no_words():
    assert band_keys(pa.chunked_array([], pa.large_string()), 5, 14, 8).keys.shape == (0, 14)
    assert band_keys(column(["", "...", "one"]), 5, 14, 8).sizes.tolist() == [0, 0, 1]


def test_the_keys_are_fixed_for_ever():
    made = band_keys(
        column(["one two three four five six", "Caf\u00e9 \u4eca\u65e5 3.14"]), 5, 2, 8, Fold(numbers=True, operators=True)
    )
    assert made.keys.tolist() == [[16818445580324795121, 10729457531118218594], [8600177401562837126, 381535239828165826]]
