"""The `warc` source: WARC and WET archives, one document per page.

file -> members (packed.py) -> records (fastwarc) -> [HTTP, HTML] -> main text
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, Literal, NamedTuple

from pydantic import Field

from raylm.core.config import Config, resolve
from raylm.core.errors import DataError
from raylm.data.records import Rejected, read_row
from raylm.data.sources.extract import AnyExtract
from raylm.data.sources.extract.page import main_text, sound
from raylm.data.sources.extract.resiliparse import Resiliparse
from raylm.data.sources.http_body import unpacked
from raylm.data.sources.packed import Unpacked, is_packed
from raylm.data.sources.units import Span, Unit, grouped, matched, opened, sliced

_MAX_HEADER = 1 << 16
_HTML = ("text/html", "application/xhtml+xml")
# white space, and the byte order marks of UTF-8 and UTF-16
_BEFORE_MARKUP = b" \t\r\n\f\0\xef\xbb\xbf\xff\xfe"
_META = {
    "url": "warc-target-uri",
    "date": "warc-date",
    "digest": "warc-payload-digest",
    "truncated": "warc-truncated",
    "languages": "warc-identified-content-language",
}


class Warc(Config):
    """Web archives: pages of WARC files, whose main text is extracted, and the ready texts of WET files."""

    kind: Literal["warc"] = "warc"
    glob: str
    """Path, folder, glob (`crawl/*.warc.gz`) or URI of the files: plain, `.gz` or `.zst`."""
    extract: AnyExtract = Resiliparse()
    """What finds the main text of a page."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A page of more bytes than this, as it was stored or unpacked, is dropped and counted as row_too_long."""
    split_bytes: int = Field(default=256 << 20, gt=0)
    """Size of a work unit: larger `.gz` files, where every record is a member of its own, are cut in byte ranges."""

    def units(self) -> list[Unit]:
        """Byte ranges of `.gz` files, whole other files. Raises DataError when no file matches."""
        spans = [
            part
            for span in matched(self.glob)
            for part in (sliced(span, self.split_bytes) if span.path.endswith(".gz") else [span])
        ]
        return grouped(spans, self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is that of the record in the file, compressed as it is.

        A record belongs to the range in which it begins. Counted as dropped: pages (`response`, `resource`) and texts
        (`conversion`); no documents, and not counted, are the records of other types.
        """
        card = resolve(self.extract)
        for span in unit.spans:
            for record in _records(span, self.max_row_bytes):
                yield _document(card, record, span.source, self.max_row_bytes) if isinstance(record, _Record) else record


class _Record(NamedTuple):
    """`start`, `end`: bytes of the file."""

    start: int
    end: int
    type: str
    headers: dict[str, str]
    content: bytes


def _document(card: Any, record: _Record, source: str, max_bytes: int) -> dict[str, Any] | Rejected:
    where = f"{source}:{record.start}"
    meta = {key: record.headers[name].strip("<>") for key, name in _META.items() if name in record.headers}
    try:
        if record.type == "conversion":
            row = {"text": sound(record.content.decode()), **meta}
        else:
            page, charset, content_type = _page(record, max_bytes)
            row = {"text": main_text(card, page, charset), **meta, "content_type": content_type}
    except DataError as cause:
        return Rejected(cause.what, where)
    except UnicodeDecodeError:
        return Rejected("invalid_utf8", where)
    return read_row(row, "text", source, record.start, record.end)


def _page(record: _Record, max_bytes: int) -> tuple[bytes, str | None, str]:
    """(HTML, charset that the server declared, its content type). Raises DataError with the reason to count."""
    from fastwarc.warc import WarcRecord, WarcRecordType

    content_type = record.headers.get("content-type", "")
    if not content_type.startswith("application/http"):
        return _html(record.content, content_type), None, content_type
    # a record of its own: a body that cannot be decoded must not stop the archive's iterator
    http = WarcRecord()
    http.init_headers(record_type=WarcRecordType.response)
    http.set_bytes_content(record.content)
    http.is_http = True
    try:
        http.parse_http(auto_decode="none")
        if http.http_headers.status_code != 200:
            raise DataError("http_status")
        content_type = http.http_content_type or ""
        if not _is_html(content_type):
            raise DataError("not_html")
        transfer, coding = (http.http_headers.get(name) or "" for name in ("Transfer-Encoding", "Content-Encoding"))
        page = unpacked(http.reader.read(), transfer, coding, max_bytes, "warc-truncated" in record.headers)
        return _html(page, content_type), http.http_charset, content_type
    except OSError as cause:
        raise DataError("undecodable_body") from cause


def _html(page: bytes, content_type: str) -> bytes:
    """The page; without a declared content type its first bytes must look like HTML."""
    if not _is_html(content_type) or (not content_type and not page[:1024].lstrip(_BEFORE_MARKUP).startswith(b"<")):
        raise DataError("not_html")
    return page


def _is_html(content_type: str) -> bool:
    return not content_type or content_type.lower().startswith(_HTML)


def _records(span: Span, max_bytes: int) -> Iterator[_Record | Rejected]:
    try:
        with opened(span.path) as file:
            if not is_packed(span.path):
                yield from _Reading(file, None, span, max_bytes).records()
                return
            stream = Unpacked(file, span.path, span.start, span.end, accepts=lambda head: head.startswith(b"WARC/"))
            stream.track = True
            while True:
                reading = _Reading(stream, stream, span, max_bytes)
                yield from reading.records()
                if not reading.broken or not stream.resume():
                    return
    except OSError:
        yield Rejected("unreadable_file", f"{span.source}:{span.start}")


class _Reading:
    """One pass over a stream of records, up to its end or to the first thing that is broken."""

    def __init__(self, file: Any, stream: Unpacked | None, span: Span, max_bytes: int) -> None:
        self.broken = False
        self._file, self._stream, self._span, self._max_bytes = file, stream, span, max_bytes

    def records(self) -> Iterator[_Record | Rejected]:
        """Records, each held back until the next one begins: only then is known where it ends, and that it is whole."""
        from fastwarc.warc import ArchiveIterator

        held: _Record | Rejected | None = None
        at: int | None = None
        try:
            for record in ArchiveIterator(self._file, parse_http=False, stream_detect=False):
                if held and at is not None:
                    yield self._placed(held, at, record.stream_pos)
                held, at = None, record.stream_pos
                held = self._taken(record)
        except OSError:
            self.broken = True
        self.broken |= bool(self._stream and self._stream.broken)
        if self.broken:
            yield from self._ending(held, at)
        elif held and at is not None:
            yield self._placed(held, at, None)

    def _ending(self, held: _Record | Rejected | None, at: int | None) -> Iterator[_Record | Rejected]:
        """The last record before the end or a break, and the reason of the break."""
        stream, source = self._stream, self._span.source
        if stream is None:
            # no header stands where one should: either the file ends in one, or the length of the record before is wrong
            if held and at is not None:
                sound = isinstance(held, Rejected) or self._ends_well(at, len(held.content))
                yield self._placed(held if sound else Rejected("invalid_record", ""), at, None)
            yield Rejected("unreadable_file", f"{source}:{at or 0}")
            return
        start = stream.members[0][1] if stream.members else stream.at
        if at is not None:
            start = self._place(at, None)[0]
        if not stream.broken:
            yield Rejected("invalid_record", f"{source}:{start}")
            stream.at = start
            return
        if isinstance(held, _Record) and at is not None and start != stream.at:
            yield self._placed(held, at, None)
        reason = "truncated_record" if stream.broken == "unreadable_file" else stream.broken
        yield Rejected(reason, f"{source}:{stream.at}")

    def _ends_well(self, at: int, length: int) -> bool:
        """Whether what follows a record of a plain file is an end of record and, as far as it is there, a header."""
        self._file.seek(at)
        head = self._file.read(_MAX_HEADER).find(b"\r\n\r\n") + 4
        self._file.seek(at + head + length)
        return (b"\r\n\r\nWARC/").startswith(self._file.read(9))

    def _taken(self, record: Any) -> _Record | Rejected | None:
        """The content of a record; its byte range is set later. None for a type that holds no document."""
        headers = {name.lower(): value for name, value in record.headers.items()}
        kind = headers.get("warc-type", "").lower()
        if kind not in ("response", "resource", "conversion"):
            return None
        length = record.content_length
        if "content-length" not in headers:
            return Rejected("truncated_record", "")
        if length > self._max_bytes:
            return Rejected("row_too_long", "")
        content = record.reader.read()
        if len(content) < length:
            return Rejected("truncated_record", "")
        return _Record(0, 0, kind, headers, content)

    def _placed(self, held: _Record | Rejected, at: int, next_at: int | None) -> _Record | Rejected:
        start, end = self._place(at, next_at)
        if isinstance(held, Rejected):
            return held._replace(where=f"{self._span.source}:{start}")
        return held._replace(start=start, end=end)

    def _place(self, at: int, next_at: int | None) -> tuple[int, int]:
        """Bytes of the file from a record to the next. In a member that holds several, the later ones have made-up places."""
        stream = self._stream
        if stream is None:
            return at, self._span.end if next_at is None else next_at
        members = stream.members
        while len(members) > 1 and members[1][0] <= at:
            members.popleft()
        begins, start = members[0]
        if begins == at and len(members) > 1:
            return start, members[1][1]
        if begins == at and next_at is None:
            return start, stream.place
        start += at - begins
        return start, start + max((next_at or 0) - at, 1)
