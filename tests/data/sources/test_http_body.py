"""Bodies whose headers are wrong: what the bytes are decides, and what cannot be unpacked is refused."""

import gzip
import zlib

import pytest
import zstandard

from raylm.core.errors import DataError
from raylm.data.sources.http_body import unpacked

PAGE = b"<html><body>" + b"some text of a page " * 20 + b"</body></html>"
# the same in brotli, stored without compression
BROTLI = bytes([0x0B, 0x02, 0x80]) + b"<b>hi" + bytes([0x03])


def chunked(body, size=40):
    parts = [body[at : at + size] for at in range(0, len(body), size)]
    return b"".join(b"%x\r\n%s\r\n" % (len(part), part) for part in parts) + b"0\r\n\r\n"


def raw_deflate(body):
    packer = zlib.compressobj(wbits=-15)
    return packer.compress(body) + packer.flush()


@pytest.mark.parametrize("transfer", ["", "chunked"])
@pytest.mark.parametrize("coding", ["", "gzip", "x-gzip", "deflate", "br", "zstd", "identity", "utf-8"])
def test_the_body_decides_whatever_the_headers_say(transfer, coding):
    for body in (PAGE, gzip.compress(PAGE), zlib.compress(PAGE), zstandard.compress(PAGE), gzip.compress(gzip.compress(PAGE))):
        assert unpacked(body, transfer, coding, 1 << 20) == PAGE
        assert unpacked(chunked(body), transfer, coding, 1 << 20) == PAGE


def test_deflate_without_a_header_of_its_own_and_brotli_have_to_be_declared():
    assert unpacked(raw_deflate(PAGE), "", "deflate", 1 << 20) == PAGE
    assert unpacked(BROTLI, "", "br", 1 << 20) == b"<b>hi"


def test_what_is_cut_off_or_nothing_of_the_kind_is_refused():
    for body, transfer, coding in (
        (gzip.compress(PAGE)[:-30], "", "gzip"),
        (chunked(PAGE)[:-60], "chunked", ""),
        (b"\x00\x01\x02\xff" * 40, "", "gzip"),
        (b"\x00\x01\x02\xff" * 40, "", "br"),
    ):
        with pytest.raises(DataError, match="undecodable_body"):
            unpacked(body, transfer, coding, 1 << 20)
    # an archive that says so keeps what is there
    assert PAGE.startswith(unpacked(chunked(PAGE)[:-60], "chunked", "", 1 << 20, is_cut=True))


def test_a_small_body_that_unpacks_to_a_large_one():
    for pack in (gzip.compress, zlib.compress, zstandard.compress):
        with pytest.raises(DataError, match="row_too_long"):
            unpacked(pack(b"<b>" + b"x" * 100_000), "", "", 1000)


def test_a_text_that_begins_like_a_chunk_is_none():
    assert unpacked(b"12\nmonths of text", "", "", 1000) == b"12\nmonths of text"
