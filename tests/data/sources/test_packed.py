"""Compressed streams: what gzip and zstd themselves unpack, and what is left of broken files."""

import gzip
import io
import struct

import pytest
import zstandard

from raylm.data.sources.packed import Unpacked

PACK = {".gz": gzip.compress, ".zst": zstandard.ZstdCompressor(write_checksum=True).compress}


def _all(content, ending, **options):
    stream = Unpacked(io.BytesIO(content), f"x{ending}", **options)
    said, got = [], [io.BufferedReader(stream).read()]
    while stream.broken:
        said.append((stream.broken, stream.at))
        if not stream.resume():
            break
        got.append(b"".join(iter(lambda: stream.read(1000), b"")))
    return got, said


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_members_padding_and_empty_files(ending):
    pack = PACK[ending]
    big = bytes(range(256)) * 20_000
    assert _all(pack(b"a") + pack(b"") + pack(big) + bytes(700), ending) == ([b"a" + big], [])
    assert _all(b"", ending) == ([b""], [])


def test_frames_without_content_are_skipped():
    note = b"\x5e\x2a\x4d\x18" + struct.pack("<I", 5) + b"notes"
    assert _all(note + PACK[".zst"](b"a") + note + PACK[".zst"](b"b"), ".zst") == ([b"ab"], [])


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_each_broken_member_is_reported_and_the_others_are_given(ending):
    parts = [bytes(f"{at} " * 50, "ascii") for at in range(6)]
    members = [PACK[ending](part) for part in parts]
    places = [sum(map(len, members[:at])) for at in range(6)]
    for at in (1, 2, 4):
        members[at] = members[at][:12] + b"\xff" * (len(members[at]) - 12)
    got, said = _all(b"".join(members), ending)
    # two neighbours that are broken are one gap: behind the first, the second does not decode either
    assert b"".join(got) == parts[0] + parts[3] + parts[5]
    assert said == [("corrupt_member", places[1]), ("corrupt_member", places[4])]


@pytest.mark.parametrize("ending", [".gz", ".zst"])
def test_a_file_that_was_cut_short_is_not_a_corrupt_one(ending):
    first, second = PACK[ending](b"first"), PACK[ending](b"second" * 100)
    got, said = _all(first + second[:-3], ending)
    assert b"".join(got).startswith(b"first") and said == [("unreadable_file", len(first))]


def test_every_member_belongs_to_the_range_in_which_it_begins():
    parts = [bytes(f"WARC/{at}", "ascii") * 9 for at in range(20)]
    content = b"".join(map(gzip.compress, parts))
    for size in (1, 10, 50, len(content)):
        found = []
        for start in range(0, len(content), size):
            got, said = _all(content, ".gz", start=start, end=start + size, accepts=lambda head: head.startswith(b"WARC/"))
            assert not said
            found += got
        assert b"".join(found) == b"".join(parts)
