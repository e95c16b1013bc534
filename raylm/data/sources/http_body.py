"""Decodes stored HTTP bodies (chunks, compression) by their bytes; headers are only hints.

Archives hold bodies that a crawler unpacked without changing the headers, and packed ones whose headers were lost.
"""

from __future__ import annotations

import re
import zlib

from raylm.core.errors import DataError

_CHUNK = re.compile(rb"([0-9A-Fa-f]{1,8})[ \t]*(?:;[^\r\n]{0,200})?\r?\n")
_GZIP, _ZSTD = b"\x1f\x8b\x08", b"\x28\xb5\x2f\xfd"
# a body packed more often than this is no page
_LAYERS = 4


def unpacked(body: bytes, transfer: str, coding: str, max_bytes: int, is_cut: bool = False) -> bytes:
    """The page in a body.

    Args:
        transfer, coding: what the headers Transfer-Encoding and Content-Encoding say.
        max_bytes: of the page.
        is_cut: the archive says that the body was cut off, so that a packed one may end early.

    Raises:
        DataError: `undecodable_body`, or `row_too_long`.
    """
    body = _joined(body, "chunked" in transfer.lower(), is_cut)
    codings = {name.strip() for name in coding.lower().split(",")}
    for _ in range(_LAYERS):
        if body.startswith(_GZIP):
            body = _inflated(body, 31, max_bytes, is_cut)
        elif body.startswith(_ZSTD):
            body = _from_zstd(body, max_bytes)
        elif body.lstrip()[:1] in (b"<", b""):
            return body
        elif len(body) > 1 and body[0] & 15 == 8 and (body[0] << 8 | body[1]) % 31 == 0:
            body = _inflated(body, 15, max_bytes, is_cut)
        elif codings & {"deflate", "br"} and not _is_text(body):
            body = _inflated(body, -15, max_bytes, is_cut) if "deflate" in codings else _from_brotli(body, max_bytes)
        elif codings & {"gzip", "x-gzip", "zstd", "compress"} and not _is_text(body):
            raise _undecodable()
        else:
            return body
    raise _undecodable()


def _undecodable() -> DataError:
    return DataError("undecodable_body")


def _is_text(body: bytes) -> bool:
    """Whether nothing was packed: a page has no control characters but white space."""
    return not re.search(rb"[\x00-\x08\x0e-\x1a\x1c-\x1f]", body[:1024])


def _joined(body: bytes, is_chunked: bool, is_cut: bool) -> bytes:
    """The chunks of a body put together; a body without chunks as it is."""
    parts, at = [], 0
    while found := _CHUNK.match(body, at):
        size = int(found[1], 16)
        if not size:
            return b"".join(parts)
        parts.append(body[found.end() : found.end() + size])
        at = found.end() + size
        if body[at : at + 2] == b"\r\n":
            at += 2
        elif body[at : at + 1] == b"\n":
            at += 1
        else:
            break
    if not is_chunked or (not parts and not _CHUNK.match(body)):
        return body
    if parts and is_cut:
        return b"".join(parts)
    raise _undecodable()


def _inflated(body: bytes, bits: int, max_bytes: int, is_cut: bool) -> bytes:
    stream = zlib.decompressobj(bits)
    try:
        page = stream.decompress(body, max_bytes + 1)
    except zlib.error as cause:
        raise _undecodable() from cause
    if len(page) > max_bytes:
        raise DataError("row_too_long")
    if not stream.eof and not is_cut:
        raise _undecodable()
    return page


def _from_zstd(body: bytes, max_bytes: int) -> bytes:
    import zstandard

    try:
        with zstandard.ZstdDecompressor().stream_reader(body) as stream:
            page = stream.read(max_bytes + 1)
    except zstandard.ZstdError as cause:
        raise _undecodable() from cause
    if len(page) > max_bytes:
        raise DataError("row_too_long")
    return page


def _from_brotli(body: bytes, max_bytes: int) -> bytes:
    from fastwarc.warc import WarcRecord, WarcRecordType

    # fastwarc has the decoder, behind a header that asks for it
    http = WarcRecord()
    http.init_headers(record_type=WarcRecordType.response)
    http.set_bytes_content(b"HTTP/1.1 200 OK\r\nContent-Encoding: br\r\n\r\n" + body)
    http.is_http = True
    try:
        http.parse_http(auto_decode="content")
        page = http.reader.read(max_bytes + 1)
    except OSError as cause:
        raise _undecodable() from cause
    if len(page) > max_bytes:
        raise DataError("row_too_long")
    return page
