"""Learns the merges of byte-pair encoding from words with counts, most frequent pair first.

pairs -> heap -> pop the most frequent -> new token -> merge it in the words that have it -> changed pair counts -> heap

Sennrich et al. 2016, https://arxiv.org/abs/1508.07909. The order of merges is that of Hugging Face's BpeTrainer, ties
included (the pair with the smaller ids), but counts have 64 bits: the library's have 32 and overflow at scale
(https://github.com/huggingface/tokenizers/issues/1170).
"""

from __future__ import annotations

import heapq
from collections.abc import Callable

import numba
import numpy as np

Pair = tuple[int, int]


class Words:
    """Distinct words as rows of symbols, merged in place.

    Args:
        symbols, bounds: int32[S], int64[W+1]; word w is symbols[bounds[w]:bounds[w+1]], ids below 2^31.
        counts: how often each word occurs, uint64[W] or int64[W], their sum below 2^63.
    """

    def __init__(self, symbols: np.ndarray, bounds: np.ndarray, counts: np.ndarray) -> None:
        self.symbols, self.starts = np.ascontiguousarray(symbols, np.int32), np.asarray(bounds[:-1], np.int64)
        self.lengths, self.counts = np.diff(bounds).astype(np.int64), np.asarray(counts, np.int64)

    def pairs(self) -> tuple[np.ndarray, np.ndarray]:
        """(keys, word numbers) of all pairs of neighbours, word by word."""
        word = np.repeat(np.arange(len(self.starts)), self.lengths)
        inside = word[1:] == word[:-1]
        return _key(self.symbols[:-1][inside], self.symbols[1:][inside]), word[1:][inside]

    def merge(self, pair: Pair, new: int, at: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Replace `pair` by `new` in the words `at`; returns (keys, +1 or -1, word numbers) of new and vanished pairs."""
        room = 4 * int(self.lengths[at].sum())
        keys, signs, words = np.empty(room, np.int64), np.empty(room, np.int64), np.empty(room, np.int32)
        size = _merge(self.symbols, self.starts, self.lengths, at, pair[0], pair[1], new, keys, signs, words)
        return keys[:size], signs[:size], words[:size]


def learn(
    words: Words, tokens: list[str], vocab_size: int, min_count: int, join: Callable[[str, str], str] = str.__add__
) -> list[Pair]:
    """Merge until there are `vocab_size` tokens or no pair occurs `min_count` times.

    Args:
        tokens: the text of each id so far, "" for ids that are taken by something else; new tokens are appended.
        join: text of a merged token. Where that is a token already, the merge leads to it and no id is used up.

    Returns:
        The merges as pairs of ids, in order.
    """
    ids = {token: id for id, token in enumerate(tokens) if token}
    counts: dict[int, int] = {}
    heap: list[tuple[int, int, int]] = []
    places: dict[int, np.ndarray] = {}
    serial = 0

    def note(keys: np.ndarray, signs: np.ndarray | None, at: np.ndarray) -> None:
        """Add pairs to the counts, and new ones to the heap."""
        nonlocal serial
        order = np.argsort(keys, kind="stable")
        keys, at = keys[order], at[order]
        deltas = words.counts[at] if signs is None else words.counts[at] * signs[order]
        new = np.flatnonzero(np.diff(keys, prepend=-1))
        for key, delta in zip(keys[new].tolist(), np.add.reduceat(deltas, new).tolist(), strict=True):
            counts[key] = counts.get(key, 0) + delta
        if signs is not None:
            appeared = signs[order] > 0
            keys, at = keys[appeared], at[appeared]
        # a word stands once in the list of a pair, however often it has the pair
        once = np.empty(len(keys), bool)
        once[:1], once[1:] = True, (keys[1:] != keys[:-1]) | (at[1:] != at[:-1])
        keys, at = keys[once], at[once].astype(np.int32)
        new = np.flatnonzero(np.diff(keys, prepend=-1))
        for key, where in zip(keys[new].tolist(), np.split(at, new[1:]), strict=False):
            if counts[key] > 0:
                # a copy: a slice would keep the whole list of its step alive
                places[serial] = where.copy()
                heapq.heappush(heap, (-counts[key], key, serial))
                serial += 1

    keys, at = words.pairs()
    if len(keys):
        note(keys, None, at)
    merges: dict[Pair, None] = {}
    while len(tokens) < vocab_size and heap:
        negative, key, number = heapq.heappop(heap)
        if -negative != counts[key]:
            # its count fell since it was pushed
            heapq.heappush(heap, (-counts[key], key, number))
            continue
        if -negative < max(min_count, 1):
            break
        pair = (key >> 32, key & 0xFFFFFFFF)
        token = join(tokens[pair[0]], tokens[pair[1]])
        if token not in ids:
            ids[token] = len(tokens)
            tokens.append(token)
        # a pair that comes back (its token had an id already) takes its later place, as in the library
        merges.pop(pair, None)
        merges[pair] = None
        changed = words.merge(pair, ids[token], places.pop(number))
        if len(changed[0]):
            note(*changed)
    return list(merges)


def _key(left: np.ndarray, right: np.ndarray) -> np.ndarray:
    return (left.astype(np.int64) << 32) | right.astype(np.int64)


@numba.njit(cache=True)
def _merge(symbols, starts, lengths, at, left, right, new, keys, signs, words):
    changes = 0
    for word in at:
        start, length = starts[word], lengths[word]
        write, read = start, start
        stop = start + length
        while read < stop:
            if read + 1 < stop and symbols[read] == left and symbols[read + 1] == right:
                if write > start:
                    before = np.int64(symbols[write - 1]) << 32
                    keys[changes], signs[changes], words[changes] = before | left, -1, word
                    keys[changes + 1], signs[changes + 1], words[changes + 1] = before | new, 1, word
                    changes += 2
                if read + 2 < stop:
                    after = np.int64(symbols[read + 2])
                    keys[changes], signs[changes], words[changes] = (np.int64(right) << 32) | after, -1, word
                    keys[changes + 1], signs[changes + 1], words[changes + 1] = (np.int64(new) << 32) | after, 1, word
                    changes += 2
                symbols[write] = new
                read += 2
            else:
                symbols[write] = symbols[read]
                read += 1
            write += 1
        lengths[word] = write - start
    return changes
