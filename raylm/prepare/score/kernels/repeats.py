"""Repeated n-grams of 2 to 10 words or tokens in one text, from running sums of hashes.

An n-gram can only repeat where its first n - 1 words do, so each length looks at what is left of the one before: one full pass
over the 2-grams, then a few positions. Nothing is kept as a string.
"""

from __future__ import annotations

import numpy as np

from raylm.prepare.score.kernels.bytes import finish, room_for
from raylm.prepare.score.kernels.scratch import GRAM_BASE, inner


@inner
def repeats(sums, chars, num, keys, owners, work, found):
    """Fills `found` (int64[4, 9], column n - 2) for `num` words: rows
    0 start of the most frequent n-gram (the earliest of the most frequent ones), 1 how often it stands there,
    2 characters of n-grams found again when reading on after each find (Gopher as datatrove counts it),
    3 characters, spaces included, under any n-gram that stood before (NeMo Curator). All 0 for a text of less than n words.
    `keys`, `owners`: tables of room_for(num); `work`: int64[4, num].
    """
    found[:] = 0
    places, groups, times = work[0], work[1], work[2]
    left = max(num - 1, 0)
    for k in range(left):
        places[k] = k
    power = GRAM_BASE
    for n in range(2, 11):
        power *= GRAM_BASE
        while left > 0 and places[left - 1] + n > num:
            left -= 1
        if num >= n:
            found[1, n - 2] = 1
        if left == 0:
            continue
        _group(sums, n, power, places, left, groups, times, keys, owners)
        best = 1
        for k in range(left):
            if groups[k] == k and times[k] > best:
                best = times[k]
                found[0, n - 2], found[1, n - 2] = places[k], best
        if n >= 5:
            found[2, n - 2] = _again(chars, n, places, left, groups, times, work[3])
            found[3, n - 2] = _covered(chars, n, places, left, groups)
        kept = 0
        for k in range(left):
            if times[groups[k]] > 1:
                places[kept] = places[k]
                kept += 1
        left = kept


@inner
def _group(sums, n, power, places, left, groups, times, keys, owners):
    """groups[k]: the first k with the same n-gram; times[that k]: how many there are."""
    size = room_for(left)
    keys[:size] = 0
    mask = size - 1
    for k in range(left):
        at = places[k]
        h = max(finish(sums[at + n] - sums[at] * power), np.uint64(1))
        slot = np.int64(h >> np.uint64(20)) & mask
        while keys[slot] != 0 and keys[slot] != h:
            slot = (slot + 1) & mask
        if keys[slot] == 0:
            keys[slot], owners[slot], times[k] = h, k, 0
        groups[k] = owners[slot]
        times[groups[k]] += 1


@inner
def _again(chars, n, places, left, groups, times, seen):
    """Read from left to right: an n-gram read before counts and is stepped over whole, any other is remembered."""
    total, onward = 0, 0
    for k in range(left):
        owner = groups[k]
        if owner == k:
            seen[k] = 0
        if times[owner] < 2 or places[k] < onward:
            continue
        if seen[owner]:
            total += chars[places[k] + n] - chars[places[k]]
            onward = places[k] + n
        seen[owner] = 1
    return total


@inner
def _covered(chars, n, places, left, groups):
    """Characters of all n-grams that stood before, each counted once, and the spaces between their words."""
    total, last = 0, -n
    for k in range(left):
        if groups[k] == k:
            continue
        overlap = max(n - (places[k] - last), 0)
        total += chars[places[k] + n] - chars[places[k] + overlap] + min(n - overlap, n - 1)
        last = places[k]
    return total
