"""Weights as a sequence of byte buckets of bounded size, and a digest that both sides compute as they pass.

    tensors --> Packer --> Bucket, Bucket, ... --(shared memory or object store)--> Receiver --> tensors

A tensor that is larger than a bucket goes on in the next one.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any, NamedTuple

from raylm.inference.shared_memory import Maps

CHUNK = 1 << 20
"""Bytes that are counted into a digest and copied at a time: in between they stay in the core's cache, so that memory is read
once for both."""

Piece = tuple[str, str, list[int], int, int, int]
"""Name, numpy dtype, shape; where the piece begins in its tensor, where in its bucket, and its length, all in bytes."""


class Bucket(NamedTuple):
    """Bytes of some tensors, and what lies where in them."""

    data: Any
    """numpy uint8, one-dimensional; None where they lie at `path`."""
    table: list[Piece]
    path: str = ""
    """Memory that the sender shares with other processes of its machine."""
    at: int = 0
    """Where the bucket begins there, in bytes."""
    size: int = 0
    """Its bytes there."""
    aside: bool = False
    """Keep it until all buckets came, and load it then: its memory stays as it is. Else load it now, with those before."""


class WeightsDigest:
    """32 hex digits over names, shapes and bytes of tensors, in whatever order these come.

    XXH3 with 128 bits (https://xxhash.com): it reads as fast as memory does, and finds what was lost or mixed up on the way; it
    is no proof against somebody who wants to deceive.
    """

    def __init__(self) -> None:
        self._parts: dict[str, bytes] = {}
        self._open: dict[str, tuple[Any, int]] = {}

    def add(self, name: str, array: Any) -> None:
        """Count in one numpy array, instead of an earlier one of that name."""
        hashed = self.begin(name, array)
        # a zero-dimensional array cannot be cast to bytes in place
        hashed.update(memoryview(array.reshape(-1)).cast("B"))
        self.end(name, hashed)

    def begin(self, name: str, array: Any) -> Any:
        """What takes the bytes of one array, by `update` in their order, until `end`."""
        return _hash(f"{name} {tuple(array.shape)} {array.dtype.str}\n".encode())

    def end(self, name: str, hashed: Any) -> None:
        """All bytes of the array came."""
        self._parts[name] = hashed.digest()

    def add_pieces(self, data: Any, table: Iterable[Piece]) -> None:
        """Count in what a bucket has; the pieces of one tensor come in order."""
        import numpy as np

        for name, dtype, shape, start, at, length in table:
            kind = np.dtype(dtype)
            hashed, had = self._open.pop(name, None) or (_hash(f"{name} {tuple(shape)} {kind.str}\n".encode()), 0)
            hashed.update(memoryview(data[at : at + length]))
            if start != had:
                raise ValueError(f"a piece of {name} begins at {start}, {had} bytes came before")
            if had + length < math.prod(shape) * kind.itemsize:
                self._open[name] = (hashed, had + length)
            else:
                self._parts[name] = hashed.digest()

    def hexdigest(self) -> str:
        """Over all that was added."""
        return _hash(b"".join(name.encode() + part for name, part in sorted(self._parts.items()))).hexdigest()

    def part(self, name: str) -> bytes | None:
        """Of one tensor, where it was added."""
        return self._parts.get(name)


def _hash(begin: bytes) -> Any:
    import xxhash

    return xxhash.xxh3_128(begin)


def weights_digest(named: Iterable[tuple[str, Any]]) -> str:
    """The digest of arrays or torch tensors; a tensor and its `as_array` view agree."""
    digest = WeightsDigest()
    for name, one in named:
        digest.add(name, as_array(one))
    return digest.hexdigest()


def as_array(tensor: Any) -> Any:
    """Contiguous numpy view of a torch tensor, copied where it lies on a device; bfloat16, which numpy lacks, as uint16."""
    import numpy as np

    if not hasattr(tensor, "detach"):
        return np.ascontiguousarray(tensor).reshape(tensor.shape)
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


class Packer:
    """Fills buckets of at most `size` bytes.

    Args:
        room: memory for a bucket, given its number: numpy uint8 of `size` bytes.
    """

    def __init__(self, size: int, room: Callable[[int], Any]) -> None:
        self._size, self._room = size, room
        self._number, self._filled, self._table = 0, 0, list[Piece]()
        self._data: Any = None

    def add(self, name: str, array: Any, digest: WeightsDigest | None = None) -> Iterator[Bucket]:
        """Take in one contiguous array; the buckets that are full with it. What comes is to be iterated to its end.

        Args:
            digest: counts it in on the way.
        """
        import numpy as np

        raw, start, hashed = array.reshape(-1).view(np.uint8), 0, digest.begin(name, array) if digest else None
        # in one piece where that is possible: pieces have to be put together, in memory of their own
        if self._table and self._filled + len(raw) > self._size >= len(raw):
            yield from self.rest()
        while True:
            if self._data is None:
                self._data = self._room(self._number)
            # every tensor begins where its numbers may lie
            self._filled = min(-(-self._filled // 16) * 16, self._size)
            length = min(len(raw) - start, self._size - self._filled)
            if length or not len(raw):
                _copy(raw[start : start + length], self._data[self._filled : self._filled + length], hashed)
                self._table.append((name, array.dtype.str, list(array.shape), start, self._filled, length))
                self._filled, start = self._filled + length, start + length
            if start == len(raw):
                if digest:
                    digest.end(name, hashed)
                return
            yield from self.rest()

    def rest(self) -> Iterator[Bucket]:
        """The bucket that is not full, if there is anything in it."""
        if self._table:
            made = Bucket(self._data[: self._filled], self._table)
            self._table, self._filled, self._data = [], 0, None
            self._number += 1
            yield made


def _copy(raw: Any, into: Any, hashed: Any) -> None:
    """Copy bytes, and count them in."""
    if hashed is None:
        into[:] = raw
        return
    for at in range(0, len(raw), CHUNK):
        part = raw[at : at + CHUNK]
        hashed.update(memoryview(part))
        into[at : at + CHUNK] = part


def pack(named: Iterable[tuple[str, Any]], size: int, digest: WeightsDigest | None = None) -> Iterator[Bucket]:
    """Buckets of at most `size` bytes. Each is valid until the next is asked for: their memory is one.

    Args:
        named: names and numpy arrays or torch tensors, which are looked at one by one.
        digest: counts in each tensor.
    """
    import numpy as np

    data = np.empty(size, np.uint8)
    packer = Packer(size, lambda number: data)
    for name, one in named:
        yield from packer.add(name, as_array(one), digest)
    yield from packer.rest()


class Receiver:
    """Tensors from buckets that other processes share; those that came in pieces are put together.

    Args:
        maps: what was mapped by an earlier one.
    """

    def __init__(self, maps: Maps | None = None) -> None:
        self._parts: dict[str, tuple[Any, int]] = {}
        self._digest, self._maps = WeightsDigest(), maps or Maps()

    def take(self, path: str, table: Iterable[Any], at: int = 0, compared: bool = False) -> list[tuple[str, Any]]:
        """The torch tensors that are whole with this bucket. They are views of what lies at `path`, from byte `at` on.

        Args:
            compared: its digest is known already, and is not computed.
        """
        table = list(table)
        end = at + max((piece[4] + piece[5] for piece in table), default=0)
        data = self._maps.of(path, end).view(at)
        return [(name, as_tensor(array)) for name, array in self.arrays(data, table, compared)]

    def arrays(self, data: Any, table: Iterable[Any], compared: bool = False) -> list[tuple[str, Any]]:
        """The arrays that are whole with this bucket, views of `data` where they came in one piece."""
        import numpy as np

        table, whole = list(table), []
        if not compared:
            self._digest.add_pieces(data, table)
        for name, dtype, shape, start, at, length in table:
            kind = np.dtype(dtype)
            size, piece = math.prod(shape) * kind.itemsize, data[at : at + length]
            if length < size:
                raw, had = self._parts.pop(name, None) or (np.empty(size, np.uint8), 0)
                raw[start : start + length] = piece
                if had + length < size:
                    self._parts[name] = (raw, had + length)
                    continue
                piece = raw
            whole.append((name, piece.view(kind).reshape(shape)))
        return whole

    def digest(self) -> str:
        """Of all tensors that are whole."""
        return self._digest.hexdigest()
