"""Merges: the slow textbook algorithm, 64-bit counts, ties."""

from collections import Counter
from itertools import pairwise

import numpy as np

from raylm.tokenize.trainers.merges import Words, learn


def _words(counts, tokens):
    ids = {token: id for id, token in enumerate(tokens)}
    flat = [ids[character] for word in counts for character in word]
    return Words(np.array(flat, np.int32), np.cumsum([0, *map(len, counts)]), np.array([*counts.values()], np.int64))


def _textbook(counts, tokens, vocab_size):
    """All pairs counted anew for each merge; ties to the pair with the smaller ids."""
    ids, words, merges = {token: id for id, token in enumerate(tokens)}, {word: [*word] for word in counts}, []
    while len(ids) < vocab_size:
        pairs = Counter()
        for word, parts in words.items():
            for left, right in pairwise(parts):
                pairs[ids[left], ids[right]] += counts[word]
        if not pairs:
            break
        (left, right), _ = min(pairs.items(), key=lambda pair: (-pair[1], pair[0]))
        texts = {id: token for token, id in ids.items()}
        left, right = texts[left], texts[right]
        merges.append((ids[left], ids[right]))
        ids.setdefault(left + right, len(ids))
        for parts in words.values():
            at = 0
            while at + 1 < len(parts):
                if parts[at : at + 2] == [left, right]:
                    parts[at : at + 2] = [left + right]
                at += 1
    return merges, [*ids]


def test_equal_to_the_textbook():
    counts = {"low": 5, "lower": 2, "newest": 6, "widest": 3, "banana": 4, "bananas": 1, "lllll": 2, "ll": 3}
    tokens = sorted({character for word in counts for character in word})
    ours = tokens.copy()
    assert learn(_words(counts, tokens), ours, 40, 1) == _textbook(counts, tokens, 40)[0]
    assert ours == _textbook(counts, tokens, 40)[1]


def test_counts_beyond_32_bits():
    tokens = ["a", "b", "c", "d"]
    made = learn(_words({"ab": 3 * 2**31, "cd": 2**40}, tokens), tokens, 6, 1)
    assert made == [(2, 3), (0, 1)] and tokens[4:] == ["cd", "ab"]


def test_it_stops_when_pairs_are_rare_or_gone():
    tokens = ["a", "b", "c"]
    assert learn(_words({"ab": 1, "bc": 2}, tokens), tokens, 99, 2) == [(1, 2)]
    assert learn(_words({"a": 9}, tokens), tokens, 99, 1) == [] and learn(_words({}, tokens), tokens, 99, 1) == []
