"""Reads gzip and zstd files as one stream of bytes that continues after a broken member."""

from __future__ import annotations

import io
import zlib
from collections import deque
from collections.abc import Callable, Iterator
from typing import IO, Any

_CHUNK = {".gz": 64 << 10, ".zst": 8 << 10}  # a zstd chunk may swell 30,000-fold, and its decoder has no brake
_MAGIC = {".gz": b"\x1f\x8b\x08", ".zst": b"\x28\xb5\x2f\xfd"}
_SKIPPABLE = b"\x2a\x4d\x18"  # a zstd frame without content; the first byte of its magic is 0x50 to 0x5f
_MAX_OUT = 1 << 20
_PROBE = 64 << 10
_SCAN = 1 << 20


def is_packed(path: str) -> bool:
    """Whether the name says gzip or zstd."""
    return path.endswith((".gz", ".zst"))


class Unpacked(io.RawIOBase):
    """A compressed file as one stream of bytes; it ends at the first broken member, and `resume` goes on behind that.

    `broken` is None, `corrupt_member` (bits are wrong) or `unreadable_file` (the file was cut short). A gzip member's
    checksum is known at its end only: what a long member gave before that was given unchecked. Bytes that a broken
    member gave count as positions, so a position depends on the file alone.

    Args:
        path: says by its ending which compression it is.
        start, end: members that begin in this range of the file are read.
        accepts: called with the first bytes of a candidate member; whether it is one.
    """

    def __init__(
        self, file: IO[bytes], path: str, start: int = 0, end: int | None = None, accepts: Callable[[bytes], bool] | None = None
    ) -> None:
        self.broken: str | None = None
        self.at = start
        """Where in the file the member being read, or broken, begins."""
        self.members: deque[tuple[int, int]] = deque()
        """(position in the stream, position in the file) of every member begun; recorded when `track` is set."""
        self.track = False
        self._file, self._kind, self._end, self._accepts = file, path[path.rindex(".") :], end, accepts
        self._in, self._in_at, self._out, self._out_at = b"", start, b"", 0
        self._codec: Any = None
        self._done = False
        file.seek(start)
        if start and not self._search(start):
            self._done = True

    @property
    def place(self) -> int:
        """Where in the file reading stands."""
        return self._in_at

    def readable(self) -> bool:
        return True

    def tell(self) -> int:
        """Bytes given so far."""
        return self._out_at - len(self._out)

    def readinto(self, buffer: Any, /) -> int:
        while not self._out:
            if self._done or self.broken:
                return 0
            self._advance()
        size = min(len(buffer), len(self._out))
        buffer[:size], self._out = self._out[:size], self._out[size:]
        return size

    def resume(self) -> bool:
        """Find the next member behind the broken one that can be decoded; False when there is none."""
        self._codec, self.broken, self._out = None, None, b""
        self.members.clear()
        self._done = not self._search(self.at + 1)
        return not self._done

    def _advance(self) -> None:
        if self._codec is None and not self._begin():
            return
        codec: Any = self._codec
        self._in = self._in or self._file.read(_CHUNK[self._kind])
        if not self._in:
            self.broken = "unreadable_file"
            return
        try:
            self._out = self._decode(codec, self._in)
        except _errors():
            self.broken = "corrupt_member"
            return
        self._out_at += len(self._out)
        rest = codec.unused_data if codec.eof else codec.unconsumed_tail
        self._in_at += len(self._in) - len(rest)
        self._in = rest
        if codec.eof:
            self._codec = None

    def _begin(self) -> bool:
        """Start on the member that comes next; False at the end of the range and where no member begins."""
        while not self._in.strip(b"\0"):
            # zeros that pad a file to a block of tape are no member
            self._in_at += len(self._in)
            self._in = self._file.read(_CHUNK[self._kind])
            if not self._in:
                self._done = True
                return False
        rest = self._in.lstrip(b"\0")
        self._in_at, self._in = self._in_at + len(self._in) - len(rest), rest
        if self._end is not None and self._in_at >= self._end:
            self._done = True
            return False
        if len(self._in) < 4:
            self._in += self._file.read(_CHUNK[self._kind])
        self.at = self._in_at
        if not self._is_magic(self._in):
            self.broken = "corrupt_member"
            return False
        self._codec = self._new()
        if self.track:
            self.members.append((self._out_at, self._in_at))
        return True

    def _search(self, at: int) -> bool:
        """Put the file where the first member at or behind `at` begins."""
        for found in self._candidates(at):
            if self._end is not None and found >= self._end:
                break
            if self._decodes(found):
                self._file.seek(found)
                self._in, self._in_at = b"", found
                return True
        return False

    def _candidates(self, at: int) -> Iterator[int]:
        magic = _MAGIC[self._kind]
        while self._end is None or at < self._end:
            self._file.seek(at)
            block = self._file.read(_SCAN)
            found = block.find(magic)
            while found >= 0:
                yield at + found
                found = block.find(magic, found + 1)
            if len(block) < _SCAN:
                return
            at += _SCAN - len(magic) + 1

    def _decodes(self, at: int) -> bool:
        """Whether the first 64 KB behind `at` decode: three bytes alone are found once in 16 MB of any compressed data."""
        self._file.seek(at)
        try:
            out = self._decode(codec := self._new(), self._file.read(_PROBE)[: _CHUNK[self._kind]])
        except _errors():
            return False
        return bool(out or codec.eof) and (self._accepts is None or self._accepts(out))

    def _is_magic(self, head: bytes) -> bool:
        skippable = self._kind == ".zst" and head[1:4] == _SKIPPABLE and 0x50 <= head[0] <= 0x5F
        return skippable or head.startswith(_MAGIC[self._kind])

    def _new(self) -> Any:
        if self._kind == ".gz":
            return zlib.decompressobj(wbits=31)
        import zstandard

        # dumps made with --long=31 ask for a window of 2 GB
        return zstandard.ZstdDecompressor(max_window_size=1 << 31).decompressobj()

    def _decode(self, codec: Any, chunk: bytes) -> bytes:
        return codec.decompress(chunk, _MAX_OUT) if self._kind == ".gz" else codec.decompress(chunk)


def _errors() -> tuple[type[Exception], ...]:
    import zstandard

    return (zlib.error, zstandard.ZstdError)
