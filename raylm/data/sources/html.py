"""The `html` source: saved web pages, one document per page."""

from __future__ import annotations

import gzip
import zlib
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config, resolve
from raylm.core.errors import DataError
from raylm.data.records import Rejected, read_row
from raylm.data.sources.extract import AnyExtract
from raylm.data.sources.extract.page import main_text
from raylm.data.sources.extract.resiliparse import Resiliparse
from raylm.data.sources.units import Span, Unit, grouped, matched, opened

_ENDINGS = (".html", ".htm", ".xhtml", ".html.gz", ".htm.gz", ".xhtml.gz")


class Html(Config):
    """Files `.html` or `.html.gz`, one page each; other files beside them are passed over."""

    kind: Literal["html"] = "html"
    glob: str
    """Path, folder, glob (`pages/**/*.html.gz`) or URI of the files."""
    extract: AnyExtract = Resiliparse()
    """What finds the main text of a page."""
    max_row_bytes: int = Field(default=16 << 20, gt=0)
    """A page of more bytes than this is dropped and counted as row_too_long."""
    split_bytes: int = Field(default=64 << 20, gt=0)
    """Pages are read together until a work unit holds this much."""

    def units(self) -> list[Unit]:
        """Groups of neighbouring pages. Raises DataError when there is none."""
        spans = [span for span in matched(self.glob) if span.path.lower().endswith(_ENDINGS)]
        if not spans:
            raise DataError("no page is among the files", where=self.glob, next="pages end in .html or .html.gz")
        return grouped(spans, self.split_bytes)

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is the whole file."""
        card = resolve(self.extract)
        for span in unit.spans:
            yield self._row(card, span)

    def _row(self, card: Any, span: Span) -> dict[str, Any] | Rejected:
        where = f"{span.source}:0"
        try:
            with opened(span.path) as file:
                page = (gzip.GzipFile(fileobj=file) if span.path.endswith(".gz") else file).read(self.max_row_bytes + 1)
            if len(page) > self.max_row_bytes:
                return Rejected("row_too_long", where)
            text = main_text(card, page)
        except (OSError, EOFError, zlib.error):
            return Rejected("unreadable_file", where)
        except DataError as cause:
            return Rejected(cause.what, where)
        return read_row({"text": text}, "text", span.source, 0, span.end)
