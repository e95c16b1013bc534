"""A copy of an engine's weights in a checkpoint's names, which a later transfer brings up to date by what changed."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

from raylm.core.errors import ArtifactError
from raylm.inference.buckets import Piece, Receiver, WeightsDigest, as_tensor
from raylm.inference.changes import CHANGES, apply_changes
from raylm.inference.shared_memory import SharedMemory


class Kept:
    """Lies in memory that the engine's workers map. It takes as much as the weights do."""

    def __init__(self) -> None:
        self._memory, self._end = SharedMemory(), 0
        self._at: dict[str, Piece] = {}
        self._digest, self._receiver = WeightsDigest(), Receiver()
        self.digest: str | None = None
        """Of the weights, while they are those of one transfer that came to its end."""

    @property
    def path(self) -> str:
        """Where workers find it."""
        return self._memory.path

    @property
    def table(self) -> list[Piece]:
        """What lies where in it."""
        return list(self._at.values())

    def begin(self) -> None:
        """A transfer begins: forget the pieces of one that broke off."""
        self._receiver = Receiver()

    def take(self, data: Any, table: list[Piece]) -> None:
        """Put in what a bucket brings: tensors, or what changed in them.

        Raises:
            ArtifactError: changes of a tensor that is not there, or not of that size.
        """
        self.digest = None
        for name, array in self._receiver.arrays(data, table):
            if name.startswith(CHANGES):
                self._change(name.removeprefix(CHANGES), array)
            else:
                self._put(name, array)

    def finish(self, digest: str) -> bool:
        """Whether the weights are now those with this digest."""
        held = self._digest.hexdigest()
        self.digest = held if held == digest else None
        return held == digest

    def held(self) -> str:
        """Digest of what lies here."""
        return self._digest.hexdigest()

    def names(self) -> set[str]:
        """Of all tensors."""
        return set(self._at)

    def merged(self, layers: Any) -> Iterator[tuple[str, Any]]:
        """Plain tensors of a base and its adapters, both kept here, as the trainer merges them.

        Args:
            layers: peft's, without memory, by name.
        """
        from raylm.model.adapters.merging import fold, merged

        return merged(layers, ((name, as_tensor(self._array(piece))) for name, piece in self._at.items()), {}, fold)

    def _put(self, name: str, array: Any) -> None:
        import numpy as np

        piece = self._at.get(name)
        if piece is None or (piece[1], piece[2]) != (array.dtype.str, list(array.shape)):
            at = -(-self._end // 64) * 64
            piece = self._at[name] = (name, array.dtype.str, list(array.shape), 0, at, array.nbytes)
            self._end = at + array.nbytes
        raw = self._memory.slot(piece[4], piece[5])
        raw[:] = array.reshape(-1).view(np.uint8)
        self._digest.add(name, array)

    def _change(self, name: str, found: Any) -> None:
        if name not in self._at:
            raise ArtifactError(f"changes came of {name}, which the generator does not have", where="generator.weights")
        array = self._array(self._at[name])
        try:
            apply_changes(found, array)
        except ValueError as cause:
            raise ArtifactError(f"{name}: {cause}", where="generator.weights") from cause
        self._digest.add(name, array)

    def _array(self, piece: Piece) -> Any:
        import numpy as np

        _, dtype, shape, _, at, length = piece
        kind = np.dtype(dtype)
        assert math.prod(shape) * kind.itemsize == length
        return self._memory.slot(at, length).view(kind).reshape(shape)
