"""A table of pre-tokens and their counts, in bounded memory."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from raylm.tokenize.trainers.pattern import Pattern, classes

if TYPE_CHECKING:
    import numpy as np
    import pyarrow as pa


class WordTable:
    """Counts of distinct pre-tokens. When `most` of them are held they are handed to `spill` and the table begins anew.

    Args:
        most: distinct pre-tokens in memory, about 50 bytes each, their text (64 bytes each on average at most) not counted.
        spill: takes (hashes uint64[N], words large_binary[N], counts uint64[N]); the arrays are its own.
    """

    def __init__(self, pattern: Pattern, most: int, spill: Callable[[np.ndarray, pa.Array, np.ndarray], None]) -> None:
        self._pattern, self._most, self._spill = pattern, most, spill
        self.num_tokens, self.num_bytes = 0, 0
        self._begin(min(1 << 12, most), 1 << 16)

    def add(self, texts: pa.Array) -> None:
        """Count the pre-tokens of texts: pa.large_string without nulls, one chunk."""
        import numpy as np

        from raylm.tokenize.trainers.scan import count_tokens

        bounds = np.frombuffer(texts.buffers()[1], np.int64)[texts.offset : texts.offset + len(texts) + 1]
        content = texts.buffers()[2]
        if not len(texts) or content is None:
            return
        data = np.frombuffer(content, np.uint8)
        self.num_bytes += int(bounds[-1] - bounds[0])
        four, digits = self._pattern.name == "gpt4", self._pattern.digits
        text, at = 0, bounds[0]
        while True:
            text, at, self._used = count_tokens(
                data, bounds, text, at, classes(), four, digits,
                self._slots, self._hashes, self._ends, self._counts, self._arena, self._used,
            )  # fmt: skip
            if text == len(texts):
                return
            self._room()

    def flush(self) -> None:
        """Hand what is held to `spill`."""
        import pyarrow as pa

        used = self._used
        if not used:
            return
        buffers = [None, pa.py_buffer(self._ends[: used + 1]), pa.py_buffer(self._arena[: self._ends[used]])]
        words = pa.Array.from_buffers(pa.large_binary(), used, buffers)
        self.num_tokens += int(self._counts[:used].sum())
        self._spill(self._hashes[:used], words, self._counts[:used])
        self._begin(len(self._hashes), len(self._arena))

    def _begin(self, entries: int, arena: int) -> None:
        import numpy as np

        self._used = 0
        self._slots = _slots(entries)
        self._hashes, self._counts = np.zeros(entries, np.uint64), np.zeros(entries, np.uint64)
        self._ends, self._arena = np.zeros(entries + 1, np.int64), np.zeros(arena, np.uint8)

    def _room(self) -> None:
        """Make room for more pre-tokens, or for more of their text; the caller asks again while one does not fit."""
        from raylm.tokenize.trainers.scan import fill_slots

        used, entries = self._used, len(self._hashes)
        full = used == entries
        if (full and used >= self._most) or (not full and used and len(self._arena) >= 64 * self._most):
            self.flush()
        elif full:
            entries = min(2 * entries, self._most)
            self._hashes, self._counts = _longer(self._hashes, entries), _longer(self._counts, entries)
            self._ends, self._slots = _longer(self._ends, entries + 1), _slots(entries)
            fill_slots(self._slots, self._hashes, used)
        else:
            self._arena = _longer(self._arena, 2 * len(self._arena))


def _slots(entries: int) -> np.ndarray:
    import numpy as np

    return np.zeros(1 << (2 * entries - 1).bit_length(), np.int64)


def _longer(array: np.ndarray, size: int) -> np.ndarray:
    import numpy as np

    longer = np.zeros(size, array.dtype)
    longer[: len(array)] = array
    return longer
