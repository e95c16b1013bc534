"""Weights as a sequence of byte buckets of bounded size, and a digest that both sides compute as they pass.

    tensors --> pack --> Bucket, Bucket, ... --(object store)--> file --> Receiver --> tensors

A tensor that is larger than what is left of a bucket goes on in the next one.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Iterator
from typing import Any, NamedTuple

Piece = tuple[str, str, list[int], int, int, int]
"""Name, numpy dtype, shape; where the piece begins in its tensor, where in its bucket, and its length, all in bytes."""


class Bucket(NamedTuple):
    """Bytes of some tensors, and what lies where in them."""

    data: Any
    """numpy uint8, one-dimensional."""
    table: list[Piece]


class WeightsDigest:
    """32 hex digits over names, shapes and bytes of tensors, in whatever order these come."""

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}

    def add(self, name: str, array: Any) -> None:
        """Count in one numpy array."""
        hashed = hashlib.blake2b(f"{name} {tuple(array.shape)} {array.dtype.str}\n".encode(), digest_size=16)
        # a zero-dimensional array cannot be cast to bytes in place
        hashed.update(memoryview(array.reshape(-1)).cast("B"))
        self._parts[name] = hashed.digest()

    def hexdigest(self) -> str:
        """Over all that was added."""
        return hashlib.blake2b(b"".join(part for _, part in sorted(self._parts.items())), digest_size=16).hexdigest()


def weights_digest(named: Iterable[tuple[str, Any]]) -> str:
    """The digest of arrays or torch tensors; a tensor and its `as_array` view agree."""
    digest = WeightsDigest()
    for name, one in named:
        digest.add(name, as_array(one))
    return digest.hexdigest()


def as_array(tensor: Any) -> Any:
    """Contiguous numpy view of a torch tensor, copied where it lies on a device; bfloat16, which numpy lacks, as uint16."""
    if not hasattr(tensor, "detach"):
        return tensor
    import torch

    plain = tensor.detach().cpu().contiguous()
    return (plain.view(torch.uint16) if plain.dtype is torch.bfloat16 else plain).numpy()


def as_tensor(array: Any) -> Any:
    """The torch tensor behind an `as_array`, without a copy."""
    import warnings

    import torch

    with warnings.catch_warnings():
        # what others hand over is read-only; it is only copied from
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype is torch.uint16 else tensor


def pack(named: Iterable[tuple[str, Any]], size: int, digest: WeightsDigest | None = None) -> Iterator[Bucket]:
    """Buckets of at most `size` bytes. Each is valid until the next is asked for: their memory is one.

    Args:
        named: names and numpy arrays or torch tensors, which are looked at one by one.
        digest: counts in each tensor.
    """
    import numpy as np

    data, table, filled = np.empty(size, np.uint8), list[Piece](), 0
    for name, one in named:
        array = as_array(one)
        if digest:
            digest.add(name, array)
        raw, start = np.ascontiguousarray(array).reshape(-1).view(np.uint8), 0
        while True:
            # every tensor begins where its numbers may lie
            filled = min(-(-filled // 16) * 16, size)
            length = min(len(raw) - start, size - filled)
            if length or not len(raw):
                data[filled : filled + length] = raw[start : start + length]
                table.append((name, array.dtype.str, list(array.shape), start, filled, length))
                filled, start = filled + length, start + length
            if start == len(raw):
                break
            yield Bucket(data[:filled], table)
            table, filled = [], 0
    if table:
        yield Bucket(data[:filled], table)


class Receiver:
    """Tensors from buckets that lie in files; those that came in pieces are put together."""

    def __init__(self) -> None:
        self._parts: dict[str, tuple[Any, int]] = {}
        self._digest = WeightsDigest()

    def take(self, path: str, table: Iterable[Any]) -> list[tuple[str, Any]]:
        """The torch tensors that are whole with this bucket. They are views of the file, which may be removed meanwhile."""
        import numpy as np

        data, whole = np.memmap(path, np.uint8, mode="r"), []
        for name, dtype, shape, start, at, length in table:
            kind = np.dtype(dtype)
            size, piece = math.prod(shape) * kind.itemsize, np.asarray(data[at : at + length])
            if length < size:
                raw, had = self._parts.pop(name, None) or (np.empty(size, np.uint8), 0)
                raw[start : start + length] = piece
                if had + length < size:
                    self._parts[name] = (raw, had + length)
                    continue
                piece = raw
            array = piece.view(kind).reshape(shape)
            self._digest.add(name, array)
            whole.append((name, as_tensor(array)))
        return whole

    def digest(self) -> str:
        """Of all tensors that are whole."""
        return self._digest.hexdigest()
