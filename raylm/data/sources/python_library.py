"""The `python_library` source: text that every Python installation has: language reference, docstrings, sources."""

from __future__ import annotations

import ast
import inspect
from collections.abc import Iterator
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import DataError
from raylm.data.records import Rejected, document
from raylm.data.sources import stdlib
from raylm.data.sources.units import Span, Unit, grouped

_UNIT_BYTES = 1 << 20
# docstrings are about a fifth of the library's bytes (1.6 of 8.8 MB in 3.11)
_DOCSTRING_SHARE = 0.2
_MIN_CHARS = 40
_Documented = ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef


class PythonLibrary(Config):
    """Text without a download: the embedded default input. It depends on the Python version and on nothing else."""

    kind: Literal["python_library"] = "python_library"
    topics: bool = True
    """The language reference that `help()` shows (0.7 MB)."""
    docstrings: bool = True
    """Docstrings of modules, classes and functions (1.6 MB)."""
    sources: bool = True
    """Whole modules of the standard library, without its tests (8.8 MB)."""
    max_bytes: int | None = Field(default=None, gt=0)
    """Cap on the text; it takes whole modules from all over the library. None takes everything."""

    def units(self) -> list[Unit]:
        """Groups of modules. Raises DataError when every part is switched off."""
        share = self.sources + _DOCSTRING_SHARE * self.docstrings
        spans = stdlib.modules() if share else []
        if self.topics:
            spans = [Span("", "pydoc_data.topics", 0, sum(len(text.encode()) for text in _topics().values())), *spans]
        if not spans:
            raise DataError("topics, docstrings and sources are all false: nothing is left to read")

        def size(span: Span) -> int:
            return int(span.end * (share if span.path else 1))

        taken, total = [], 0
        for span in spans:
            if self.max_bytes is None or total < self.max_bytes:
                taken.append(span)
                total += size(span)
        units = grouped(taken, min(_UNIT_BYTES, max(total // 2, 1)), size=size)
        # what is estimated above is made exact here: no unit gives more than its part
        cap = self.max_bytes
        return (
            units
            if cap is None
            else [Unit(unit.spans, max(1, cap * sum(map(size, unit.spans)) // max(total, 1))) for unit in units]
        )

    def read(self, unit: Unit) -> Iterator[dict[str, Any] | Rejected]:
        """Documents of one unit; their range is in bytes of the module's file."""
        left = unit.max_bytes
        for span in unit.spans:
            for row in self._module(span) if span.path else _topic_rows(span.source):
                if left is not None and isinstance(row, dict):
                    left -= len(row["text"].encode())
                    if left < 0:
                        return
                yield row

    def _module(self, span: Span) -> Iterator[dict[str, Any] | Rejected]:
        try:
            with open(span.path, "rb") as file:
                content = file.read()
            text = content.decode()
        except OSError:
            yield Rejected("unreadable_file", span.source)
            return
        except UnicodeDecodeError:
            yield Rejected("invalid_utf8", span.source)
            return
        if self.docstrings:
            yield from _docstrings(span.source, content)
        if self.sources and text.strip():
            yield document(span.source, 0, len(content), text)


def _topics() -> dict[str, str]:
    from pydoc_data.topics import topics

    return topics


def _topic_rows(source: str) -> Iterator[dict[str, Any]]:
    at = 0
    for name in sorted(_topics()):
        text = _topics()[name].strip() + "\n"
        size = len(text.encode())
        yield document(source, at, at + size, text)
        at += size


def _docstrings(source: str, content: bytes) -> Iterator[dict[str, Any]]:
    """`name(arguments)`, an empty line, the docstring: one document each."""
    tree, starts = stdlib.parse(content), stdlib.line_starts(content)
    if tree is None:
        return
    queue: list[tuple[str, _Documented]] = [(stdlib.module_name(source), tree)]
    while queue:
        name, node = queue.pop(0)
        for child in node.body:
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                queue.append((f"{name}.{child.name}", child))
        text = ast.get_docstring(node, clean=False)
        if not text or len(text) < _MIN_CHARS or not isinstance(node.body[0], ast.Expr):
            continue
        arguments = f"({ast.unparse(node.args)})" if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)) else ""
        at = node.body[0]
        start = starts[at.lineno - 1] + at.col_offset
        end = starts[(at.end_lineno or at.lineno) - 1] + (at.end_col_offset or 0)
        yield document(source, start, end, f"{name}{arguments}\n\n{inspect.cleandoc(text)}\n")
