"""The schedule of a data mixture: which part each draw comes from, and how often that part was drawn before.

phases -> earliest due first, one period of draws -> table; draw t -> part, ordinal --walk--> row of the part
"""

from __future__ import annotations

import bisect
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from raylm.data.order import walk


class _Segment(NamedTuple):
    """A stretch of draws that repeats `parts` as often as it is long."""

    start: int
    parts: np.ndarray
    """int64 [period]: part of each draw."""
    before: np.ndarray
    """int64 [period]: how often that part stands before it in the period."""
    base: tuple[int, ...]
    """Draws of each part before `start`."""


class Schedule:
    """Which part each draw comes from: a pure function of its number. |draws of a part - its share| < 1 after any draw.

    The next draw goes to the part whose share next grows by a whole row, among those that are not ahead of it (Tijdeman,
    The chairman assignment problem, https://doi.org/10.1016/0012-365X(80)90269-1). With whole-number weights that repeats
    after as many draws as their sum, so one period is kept per phase, and a few around a change of phase.

    Args:
        phases: (number of the first draw behind the phase, weight of each part); the last phase has no end.
    """

    def __init__(self, phases: Sequence[tuple[int | None, tuple[int, ...]]]) -> None:
        self._num_parts = len(phases[0][1])
        self._unit = math.lcm(*(sum(weights) for _, weights in phases))
        self._starts = [0, *(end for end, _ in phases if end is not None)]
        self._weights = [[weight * self._unit // sum(weights) for weight in weights] for _, weights in phases]
        # shares are counted in 1 / unit rows, so that nothing is ever rounded
        self._shares = [[0] * self._num_parts]
        for weights, start, end in zip(self._weights, self._starts, self._starts[1:], strict=False):
            self._shares.append([share + (end - start) * weight for share, weight in zip(self._shares[-1], weights, strict=True)])
        self._segments: list[_Segment] = []
        counts = [0] * self._num_parts
        for number, (end, weights) in enumerate(phases):
            self._build(number, end, sum(weights) // math.gcd(*weights), counts)

    def at(self, first: int, count: int) -> tuple[np.ndarray, np.ndarray]:
        """(part, number of earlier draws of that part) of draws `first` to `first + count - 1`, int64 [count] each."""
        parts, ordinals = np.empty(count, np.int64), np.empty(count, np.int64)
        done = 0
        while done < count:
            index, segment, offset = self._find(first + done)
            upto = self._segments[index + 1].start if index + 1 < len(self._segments) else first + count
            size = min(count - done, upto - first - done)
            repeats, place = np.divmod(np.arange(offset, offset + size, dtype=np.int64), len(segment.parts))
            parts[done : done + size] = segment.parts[place]
            per_period = np.bincount(segment.parts, minlength=self._num_parts)
            base = np.array(segment.base, dtype=np.int64)
            drawn = parts[done : done + size]
            ordinals[done : done + size] = base[drawn] + repeats * per_period[drawn] + segment.before[place]
            done += size
        return parts, ordinals

    def counts(self, draws: int) -> list[int]:
        """Rows drawn from each part in the first `draws` draws."""
        if not draws:
            return [0] * self._num_parts
        _, segment, offset = self._find(draws - 1)
        repeats, rest = divmod(offset + 1, len(segment.parts))
        per_period = np.bincount(segment.parts, minlength=self._num_parts).tolist()
        begun = np.bincount(segment.parts[:rest], minlength=self._num_parts).tolist()
        return [base + repeats * whole + some for base, whole, some in zip(segment.base, per_period, begun, strict=True)]

    def _find(self, draw: int) -> tuple[int, _Segment, int]:
        index = bisect.bisect_right(self._segments, draw, key=lambda segment: segment.start) - 1
        return index, self._segments[index], draw - self._segments[index].start

    def _build(self, phase: int, end: int | None, period: int, counts: list[int]) -> None:
        """Append the phase's segments; `counts` is advanced to the phase's end."""
        at, seen, chunks = self._starts[phase], dict[tuple[int, ...], int](), list[list[int]]()
        # the last periods before a change look ahead to what is due behind it, and so are not repeats of the earlier ones
        while end is None or end - at > 3 * period:
            state = tuple(count * self._unit - self._share(phase, part, at) for part, count in enumerate(counts))
            if state in seen:
                again = [part for chunk in chunks[seen[state] :] for part in chunk]
                self._add(at, again, counts)
                if end is None:
                    return
                repeats = (end - at - 2 * period) // len(again)
                gained = np.bincount(again, minlength=self._num_parts).tolist()
                counts[:] = [count + repeats * more for count, more in zip(counts, gained, strict=True)]
                at += repeats * len(again)
                break
            seen[state], before = len(chunks), list(counts)
            chunks.append(self._draw(phase, at, at + period, counts))
            self._add(at, chunks[-1], before)
            at += period
        before = list(counts)
        self._add(at, self._draw(phase, at, end or at, counts), before)

    def _add(self, start: int, parts: list[int], base: list[int]) -> None:
        if not parts:
            return
        drawn = np.array(parts, dtype=np.int64)
        before = np.empty(len(drawn), dtype=np.int64)
        for part in range(self._num_parts):
            mine = np.flatnonzero(drawn == part)
            before[mine] = np.arange(len(mine))
        self._segments.append(_Segment(start, drawn, before, tuple(base)))

    def _draw(self, phase: int, first: int, end: int, counts: list[int]) -> list[int]:
        """Parts of the draws from `first` to `end - 1`, one after the other; `counts` is advanced."""
        due = [self._due(phase, part, count) for part, count in enumerate(counts)]
        shares = [self._share(phase, part, first) for part in range(self._num_parts)]
        weights, found = self._weights[phase], []
        for _ in range(first, end):
            chosen, soonest = -1, math.inf
            for part in range(self._num_parts):
                shares[part] += weights[part]
                if counts[part] * self._unit < shares[part] and (due[part] < soonest or chosen < 0):
                    chosen, soonest = part, due[part]
            counts[chosen] += 1
            due[chosen] = self._due(phase, chosen, counts[chosen])
            found.append(chosen)
        return found

    def _share(self, phase: int, part: int, at: int) -> int:
        return self._shares[phase][part] + (at - self._starts[phase]) * self._weights[phase][part]

    def _due(self, phase: int, part: int, count: int) -> float:
        """Number of draws after which the part's share has grown to `count + 1` rows; infinite when it never does."""
        wanted = (count + 1) * self._unit
        last = len(self._weights) - 1
        while phase < last and self._shares[phase + 1][part] < wanted:
            phase += 1
        weight = self._weights[phase][part]
        if not weight:
            return math.inf
        return self._starts[phase] + -((self._shares[phase][part] - wanted) // weight)


class Mixed:
    """Several row sets as one: row numbers run through the parts one after the other.

    Args:
        parts: each with a length and rows by number.
        schedule: by which they are drawn.
    """

    def __init__(self, parts: Sequence[Any], schedule: Schedule) -> None:
        self.parts, self._schedule = list(parts), schedule
        self._ends = np.cumsum([len(part) for part in self.parts]).tolist()

    def __len__(self) -> int:
        return self._ends[-1]

    def __getitem__(self, index: int) -> Any:
        part, at = self.place(index)
        return self.parts[part][at]

    def place(self, index: int) -> tuple[int, int]:
        """(part, row within it) of row `index`."""
        if not 0 <= index < len(self):
            raise IndexError(f"row {index} of {len(self)}")
        part = bisect.bisect_right(self._ends, index)
        return part, index - (self._ends[part] - len(self.parts[part]))

    def indices(self, first: int, count: int, seed: int) -> list[int]:
        """Row numbers of draws `first` to `first + count - 1`; each part goes through its own epochs."""
        parts, ordinals = self._schedule.at(first, count)
        found = np.empty(count, dtype=np.int64)
        for part in np.unique(parts).tolist():
            mine, size = parts == part, len(self.parts[part])
            found[mine] = walk(ordinals[mine].astype(np.uint64), size, seed, stream=part) + (self._ends[part] - size)
        return found.tolist()

    def first(self, count: int) -> list[int]:
        """The first `count` draws in the parts' own order; a draw from a part that has no more rows is left out."""
        parts, ordinals = self._schedule.at(0, count)
        sizes = np.array([len(part) for part in self.parts])
        kept = ordinals < sizes[parts]
        begins = np.array(self._ends) - sizes
        return (begins[parts[kept]] + ordinals[kept]).tolist()
