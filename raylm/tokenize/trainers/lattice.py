"""The compiled part of Unigram training: how often each piece is used, over all segmentations or in the best one.

All sums run over words in their order on one thread, so that the same counts give the same scores to the last bit.
"""

from __future__ import annotations

import numba
import numpy as np

from raylm.tokenize.trainers.scan import hash_bytes


class Pieces:
    """Pieces that can be looked up by their bytes.

    Args:
        pieces: distinct and not empty, none longer than `longest` bytes.
        scores: their log-probabilities.
    """

    def __init__(self, pieces: list[bytes], scores: np.ndarray, longest: int) -> None:
        self.data = np.frombuffer(b"".join(pieces), np.uint8)
        self.bounds = np.cumsum([0, *map(len, pieces)])
        self.scores, self.longest = np.asarray(scores, np.float64), longest
        self.slots = np.zeros(1 << (4 * len(pieces)).bit_length(), np.int32)
        _enter(self.data, self.bounds, self.slots)

    def __len__(self) -> int:
        return len(self.scores)

    def expect(self, data: np.ndarray, bounds: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Expected uses of each piece over all segmentations of the words, float64[P] (the E-step, forward-backward)."""
        found = np.zeros(len(self))
        _expect(data, bounds, counts, self.data, self.bounds, self.slots, self.scores, self.longest, found)
        return found

    def best(self, data: np.ndarray, bounds: np.ndarray, counts: np.ndarray) -> np.ndarray:
        """Uses of each piece in the best segmentations of the words, int64[P]."""
        found = np.zeros(len(self), np.int64)
        _best(data, bounds, counts, self.data, self.bounds, self.slots, self.scores, self.longest, found)
        return found

    def without(self) -> tuple[np.ndarray, np.ndarray]:
        """The best segmentation of each piece into others: (pieces int32[S], bounds int64[P+1]); empty when it has none."""
        return _without(self.data, self.bounds, self.slots, self.scores, self.longest)


@numba.njit(cache=True)
def _enter(data, bounds, slots):
    mask = np.uint64(len(slots) - 1)
    for piece in range(len(bounds) - 1):
        slot = hash_bytes(data, bounds[piece], bounds[piece + 1]) & mask
        while slots[slot]:
            slot = (slot + np.uint64(1)) & mask
        slots[slot] = piece + 1


@numba.njit(cache=True)
def _find(text, start, end, data, bounds, slots):
    """Number of the piece text[start:end], or -1."""
    mask = np.uint64(len(slots) - 1)
    slot = hash_bytes(text, start, end) & mask
    while slots[slot]:
        piece = slots[slot] - 1
        at = bounds[piece]
        if bounds[piece + 1] - at == end - start:
            same = True
            for k in range(end - start):
                if data[at + k] != text[start + k]:
                    same = False
                    break
            if same:
                return piece
        slot = (slot + np.uint64(1)) & mask
    return -1


@numba.njit(cache=True)
def _add_logs(left, right):
    if left < right:
        left, right = right, left
    return left if right == -np.inf else left + np.log1p(np.exp(right - left))


@numba.njit(cache=True)
def _expect(text, words, counts, data, bounds, slots, scores, longest, uses):
    most = 0
    for word in range(len(words) - 1):
        most = max(most, words[word + 1] - words[word])
    forward, backward = np.empty(most + 1), np.empty(most + 1)
    for word in range(len(words) - 1):
        start, size = words[word], words[word + 1] - words[word]
        forward[: size + 1], backward[: size + 1] = -np.inf, -np.inf
        forward[0], backward[size] = 0.0, 0.0
        # pieces by (begin, length): looked up once, used in both directions
        seen = np.full((size, longest), -1, np.int32)
        for begin in range(size):
            for end in range(begin + 1, min(size, begin + longest) + 1):
                piece = _find(text, start + begin, start + end, data, bounds, slots)
                seen[begin, end - begin - 1] = piece
                if piece >= 0:
                    forward[end] = _add_logs(forward[end], forward[begin] + scores[piece])
        for begin in range(size - 1, -1, -1):
            for end in range(begin + 1, min(size, begin + longest) + 1):
                piece = seen[begin, end - begin - 1]
                if piece >= 0:
                    backward[begin] = _add_logs(backward[begin], backward[end] + scores[piece])
        total = forward[size]
        for begin in range(size):
            for end in range(begin + 1, min(size, begin + longest) + 1):
                piece = seen[begin, end - begin - 1]
                if piece >= 0:
                    uses[piece] += counts[word] * np.exp(forward[begin] + scores[piece] + backward[end] - total)


@numba.njit(cache=True)
def _viterbi(text, start, size, data, bounds, slots, scores, longest, skip, score, last, length):
    """Best segmentation of text[start:start+size] without the piece `skip`, in last[1:size+1] and length[1:size+1]."""
    score[0] = 0.0
    for end in range(1, size + 1):
        score[end], last[end], length[end] = -np.inf, -1, 0
        for begin in range(max(0, end - longest), end):
            if score[begin] > -np.inf:
                piece = _find(text, start + begin, start + end, data, bounds, slots)
                # on equal scores the longer piece, which comes first
                if piece >= 0 and piece != skip and score[begin] + scores[piece] > score[end]:
                    score[end], last[end], length[end] = score[begin] + scores[piece], piece, end - begin


@numba.njit(cache=True)
def _best(text, words, counts, data, bounds, slots, scores, longest, uses):
    most = 0
    for word in range(len(words) - 1):
        most = max(most, words[word + 1] - words[word])
    score, last, length = np.empty(most + 1), np.empty(most + 1, np.int32), np.empty(most + 1, np.int32)
    for word in range(len(words) - 1):
        end = words[word + 1] - words[word]
        _viterbi(text, words[word], end, data, bounds, slots, scores, longest, -1, score, last, length)
        while end > 0:
            uses[last[end]] += counts[word]
            end -= length[end]


@numba.njit(cache=True)
def _without(data, bounds, slots, scores, longest):
    score, last, length = np.empty(longest + 1), np.empty(longest + 1, np.int32), np.empty(longest + 1, np.int32)
    segments, ends = np.empty(len(data), np.int32), np.zeros(len(bounds), np.int64)
    used = 0
    for piece in range(len(bounds) - 1):
        end = bounds[piece + 1] - bounds[piece]
        _viterbi(data, bounds[piece], end, data, bounds, slots, scores, longest, piece, score, last, length)
        while end > 0 and last[end] >= 0:
            segments[used] = last[end]
            used += 1
            end -= length[end]
        ends[piece + 1] = used
    return segments[:used], ends
