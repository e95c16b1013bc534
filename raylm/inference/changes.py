"""What changed in a tensor, exactly: positions and new values, to the bit (a NaN, a negative zero).

    counts of the blocks (uint32) | positions in their block (uint16) | new values

Blocks are 65,536 values long, so that a position takes two bytes: 6 bytes for a changed float32, 4 for a bfloat16.
"""

from __future__ import annotations

from typing import Any

CHANGES = "changes:"
"""Before the name of a tensor of which only what changed is sent."""
BLOCK = 1 << 16


def changes(before: Any, after: Any) -> Any:
    """What makes `after` of `before`, and put into `before` as well: numpy uint8; of length 0 where nothing changed; None where
    sending all of `after` is shorter.

    Args:
        before, after: contiguous numpy arrays of one shape and dtype; `before` can be written.
    """
    import numpy as np

    old, new = _bits(before), _bits(after)
    found = old != new
    count = np.count_nonzero(found)
    if not count:
        return np.empty(0, np.uint8)
    num_blocks = -(-len(new) // BLOCK)
    if 4 * num_blocks + count * (2 + new.itemsize) >= new.nbytes:
        old[:] = new
        return None
    at = np.flatnonzero(found)
    values = new[at]
    old[at] = values
    counts = np.bincount(at // BLOCK, minlength=num_blocks).astype(np.uint32)
    return np.concatenate([counts.view(np.uint8), (at % BLOCK).astype(np.uint16).view(np.uint8), values.view(np.uint8)])


def apply_changes(found: Any, array: Any) -> None:
    """Put what `changes` found into `array`, in place.

    Raises:
        ValueError: it does not belong to an array of this size.
    """
    import numpy as np

    bits = _bits(array)
    num_blocks = -(-len(bits) // BLOCK)
    counts = found[: 4 * num_blocks].view(np.uint32)
    count = int(counts.sum())
    if len(found) != 4 * num_blocks + count * (2 + bits.itemsize):
        raise ValueError(f"{len(found)} bytes of changes do not belong to {len(bits)} values of {bits.itemsize} bytes")
    middle = 4 * num_blocks + 2 * count
    at = np.repeat(np.arange(num_blocks) * BLOCK, counts) + found[4 * num_blocks : middle].view(np.uint16)
    # values begin at an even byte, not always at a multiple of their own size
    bits[at] = np.frombuffer(found[middle:].tobytes(), bits.dtype)


def _bits(array: Any) -> Any:
    """Flat view of an array as unsigned integers: floats would call a NaN changed, and -0.0 the same as 0.0."""
    import numpy as np

    return array.reshape(-1).view(np.dtype(f"u{array.dtype.itemsize}"))
