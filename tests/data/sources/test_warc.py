"""WARC and WET: byte ranges that hold exactly the record, reasons, and what is left of broken archives."""

import gzip
import io
import json

import pytest
import zstandard
from fastwarc.warc import ArchiveIterator

from raylm.data.records import Rejected
from raylm.data.sources.warc import Warc

PAGE = "<html><head><title>t</title></head><body><nav>menu</nav><main><p>{}</p></main></body></html>"
OK = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=utf-8\r\n\r\n"


def record(content, kind="response", url="https://a.org/1", content_type="application/http; msgtype=response", length=None):
    content = content if isinstance(content, bytes) else content.encode()
    head = {
        "WARC-Type": kind,
        "WARC-Record-ID": "<urn:uuid:0>",
        "WARC-Target-URI": url,
        "WARC-Date": "2024-01-01T00:00:00Z",
        "Content-Type": content_type,
        "Content-Length": len(content) if length is None else length,
    }
    lines = "".join(f"{name}: {value}\r\n" for name, value in head.items())
    return f"WARC/1.0\r\n{lines}\r\n".encode() + content + b"\r\n\r\n"


def page(at, length=None):
    return record(OK + PAGE.format(f"Page number {at} has a text of its own, ü."), url=f"https://a.org/{at}", length=length)


def archive(count):
    """warcinfo, then a request before every page, as crawlers write them."""
    records = [record("software: x", "warcinfo", content_type="application/warc-fields")]
    for at in range(count):
        records += [record("GET / HTTP/1.1\r\n\r\n", "request"), page(at)]
    return records


def read(tmp_path, content, name="a.warc.gz", **options):
    (tmp_path / name).write_bytes(content)
    card = Warc(glob=str(tmp_path / name), **options)
    rows = [row for unit in card.units() for row in card.read(unit)]
    return [row for row in rows if isinstance(row, dict)], [row for row in rows if isinstance(row, Rejected)]


def urls(rows):
    return [int(json.loads(row["meta"])["url"].rpartition("/")[2]) for row in rows]


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)])
def test_ranges_hold_exactly_the_record(tmp_path, ending, pack):
    content = b"".join(map(pack, archive(5)))
    kept, lost = read(tmp_path, content, f"a.warc{ending}")
    assert not lost and urls(kept) == list(range(5))
    unpack = {
        "": bytes,
        ".gz": gzip.decompress,
        ".zst": lambda part: zstandard.ZstdDecompressor().decompressobj().decompress(part),
    }
    for row in kept:
        (found,) = ArchiveIterator(io.BytesIO(unpack[ending](content[row["start"] : row["end"]])))
        assert found.headers["WARC-Target-URI"] == json.loads(row["meta"])["url"]
        assert row["text"].split() == f"Page number {urls([row])[0]} has a text of its own, ü.".split()
    assert json.loads(kept[0]["meta"]) == {
        "url": "https://a.org/0",
        "date": "2024-01-01T00:00:00Z",
        "content_type": "text/html",
    }


@pytest.mark.parametrize("split_bytes", [50, 333, 1000])
def test_a_gz_file_may_be_cut_anywhere(tmp_path, split_bytes):
    content = b"".join(map(gzip.compress, archive(20)))
    assert read(tmp_path, content, split_bytes=split_bytes) == read(tmp_path, content)


def test_one_member_that_holds_the_whole_archive(tmp_path):
    content = gzip.compress(b"".join(archive(10)))
    kept, lost = read(tmp_path, content)
    assert not lost and urls(kept) == list(range(10)) and len({row["id"] for row in kept}) == 10
    assert read(tmp_path, content, split_bytes=100) == (kept, lost)


def test_wet_gives_its_texts(tmp_path):
    texts = ["plain ü", " ", b"\xff\xfe"]
    content = b"".join(gzip.compress(record(text, "conversion", content_type="text/plain")) for text in texts)
    kept, lost = read(tmp_path, content, "a.warc.wet.gz")
    assert [row["text"] for row in kept] == ["plain ü"] and [row.reason for row in lost] == ["empty", "invalid_utf8"]


def test_every_page_that_gives_no_text_has_its_reason(tmp_path):
    http = "HTTP/1.1 {}\r\nContent-Type: {}\r\n{}\r\n{}"
    records = [
        record(http.format("404 Not Found", "text/html", "", PAGE.format("gone"))),
        record(http.format("200 OK", "image/png", "", "x")),
        record(http.format("200 OK", "text/html", "", "<html></html>")),
        record(http.format("200 OK", "text/html", "Content-Encoding: gzip\r\n", "\x00\x01no gzip")),
        record("no HTTP at all"),
        record("log", "resource", content_type="text/plain"),
        record("HTTP/1.1 200 OK\r\n\r\n\x00\x01binary"),
        record(OK + "x" * 3000),
        page(7),
    ]
    kept, lost = read(tmp_path, b"".join(map(gzip.compress, records)), max_row_bytes=2000)
    reasons = [
        "http_status",
        "not_html",
        "no_main_text",
        "undecodable_body",
        "http_status",
        "not_html",
        "not_html",
        "row_too_long",
    ]
    assert [row.reason for row in lost] == reasons and urls(kept) == [7]


def test_encodings_and_transfer_codings_are_undone(tmp_path):
    body = gzip.compress(PAGE.format("Grüße aus dem Süden, in einer alten Kodierung.").encode("latin-1"))
    chunked = b"%x\r\n%s\r\n0\r\n\r\n" % (len(body), body)
    head = "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset=iso-8859-1\r\n"
    head += "Content-Encoding: gzip\r\nTransfer-Encoding: chunked\r\n\r\n"
    kept, _ = read(tmp_path, gzip.compress(record(head.encode() + chunked)))
    assert "Grüße aus dem Süden" in kept[0]["text"]


@pytest.mark.parametrize(("ending", "pack"), [("", bytes), (".gz", gzip.compress), (".zst", zstandard.compress)])
def test_a_truncated_archive_keeps_the_records_before_the_cut(tmp_path, ending, pack):
    members = list(map(pack, archive(5)))
    content = b"".join(members)
    for cut in (len(members[-1]) // 2, 5, len(members[-1]) - 5):
        kept, lost = read(tmp_path, content[:-cut], f"a.warc{ending}")
        # four bytes of newlines end a plain record; without them it is whole all the same
        assert urls(kept) in (list(range(4)), list(range(5)))
        assert len(lost) == 5 - len(kept) and {row.reason for row in lost} <= {"truncated_record", "unreadable_file"}
    assert read(tmp_path, content[:-3], f"b.warc{ending}")[0][:4] == [
        {**row, "source": row["source"].replace("a.warc", "b.warc"), "id": other["id"]}
        for row, other in zip(kept[:4], read(tmp_path, content, f"b.warc{ending}")[0], strict=False)
    ]


def test_a_plain_archive_that_ends_in_a_header_keeps_the_record_before(tmp_path):
    kept, lost = read(tmp_path, page(0) + page(1) + page(2)[:5], "a.warc")
    assert urls(kept) == [0, 1] and [row.reason for row in lost] == ["unreadable_file"]


def test_a_corrupt_member_costs_its_own_record(tmp_path):
    members = list(map(gzip.compress, archive(6)))
    places = [sum(map(len, members[:at])) for at in range(len(members))]
    # member 4 is page 1; a wrong checksum alone is enough
    members[4] = members[4][:-8] + b"\0\0\0\0" + members[4][-4:]
    members[8] = members[8][:30] + b"\xff" * 20 + members[8][50:]
    kept, lost = read(tmp_path, b"".join(members))
    assert urls(kept) == [0, 2, 4, 5]
    assert [(row.reason, int(row.where.rpartition(":")[2])) for row in lost] == [
        ("corrupt_member", places[4]),
        ("corrupt_member", places[8]),
    ]


@pytest.mark.parametrize("length", [30, 700])
def test_a_record_that_lies_about_its_length_costs_itself(tmp_path, length):
    records = [page(0), page(1, length=length), page(2), page(3)]
    kept, lost = read(tmp_path, b"".join(map(gzip.compress, records)))
    assert urls(kept) == [0, 2, 3] and [row.reason for row in lost] == ["invalid_record"]
    # without members nothing tells where the next record begins
    kept, lost = read(tmp_path, b"".join(records), "a.warc")
    assert urls(kept) == [0] and [row.reason for row in lost] == ["invalid_record", "unreadable_file"]


def test_what_is_no_archive_is_counted(tmp_path):
    assert [row.reason for row in read(tmp_path, b"<html>" * 100, "a.warc")[1]] == ["unreadable_file"]
    assert [row.reason for row in read(tmp_path, b"<html>" * 100)[1]] == ["corrupt_member"]
    assert [row.reason for row in read(tmp_path, gzip.compress(b"<html>" * 100), "c.warc.gz")[1]] == ["invalid_record"]
    assert read(tmp_path, b"", "d.warc.gz") == ([], [])


def test_the_exact_extractor_may_be_chosen(tmp_path):
    text = "This paragraph is long enough to be taken for the text of an article by everyone. " * 5
    content = gzip.compress(record(OK + PAGE.format(text)))
    assert read(tmp_path, content, extract={"kind": "trafilatura"})[0][0]["text"].split() == text.split()


def test_what_the_bytes_are_counts_more_than_what_headers_say(tmp_path):
    korean = "대한민국의 수도는 서울이다. 서울은 한강을 끼고 발달한 도시로 인구가 약 천만 명에 이른다."
    head = (
        "HTTP/1.1 200 OK\r\nContent-Type: text/html; charset={}\r\nTransfer-Encoding: chunked\r\nContent-Encoding: gzip\r\n\r\n"
    )
    body = PAGE.format(korean)
    records = [
        record(head.format("utf-8").encode() + body.encode("cp949")),
        record(head.format("iso-8859-1").encode() + gzip.compress(body.encode())),
        record(b"HTTP/1.1 200 OK\r\n\r\n" + gzip.compress(body.encode("utf-16"))),
        record(head.format("utf-8").encode() + body.replace("서울", "").encode() + b"<p>\xec\x84</p>"),
        record("lost " + "\ufffd\ufffd " * 10, "conversion", content_type="text/plain"),
    ]
    kept, lost = read(tmp_path, b"".join(records), "a.warc")
    assert [row["text"] for row in kept] == [korean] * 3
    assert [row.reason for row in lost] == ["undecodable", "undecodable"]
