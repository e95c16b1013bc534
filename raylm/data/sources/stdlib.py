"""The modules of this Python's standard library and the names they define."""

from __future__ import annotations

import ast
import hashlib
import os
import re
import sysconfig
import warnings
from collections.abc import Iterator
from typing import NamedTuple

from raylm.data.sources.units import Span

# no prose in them (encodings are tables), not part of every installation, or another program's code
_SKIPPED = {
    "test",
    "tests",
    "idlelib",
    "idle_test",
    "lib2to3",
    "site-packages",
    "dist-packages",
    "turtledemo",
    "__pycache__",
    "encodings",
    "lib-dynload",
    "pydoc_data",
    "ensurepip",
    "pgen2",
}
# written when Python was built, with that machine's paths
_BUILT = re.compile(r"^(_sysconfigdata|sitecustomize|usercustomize|_pyrepl)|^config-")
_RAISED = ("Error", "Exception", "Warning")
_CONSTANT = re.compile(r"^[A-Z][A-Z0-9_]+$")


class Name(NamedTuple):
    """A public name, its kind, and the byte range of its definition in the module's file."""

    name: str
    kind: str
    start: int
    end: int


def modules() -> list[Span]:
    """The library's .py files, ordered by a hash of their names: any first part of the list is a fair sample."""
    root = sysconfig.get_path("stdlib")
    version = f"python{sysconfig.get_python_version()}"
    found = []
    for at, folders, names in os.walk(root):
        folders[:] = [name for name in folders if name not in _SKIPPED and not _BUILT.match(name)]
        for name in names:
            if name.endswith(".py") and not _BUILT.match(name):
                path = os.path.join(at, name)
                source = f"{version}/{os.path.relpath(path, root).replace(os.sep, '/')}"
                found.append(Span(path, source, 0, os.path.getsize(path)))
    return sorted(found, key=lambda span: order_of(span.source))


def order_of(name: str) -> bytes:
    """A place for `name` in an order that has nothing to do with the alphabet."""
    return hashlib.blake2b(name.encode(), digest_size=8).digest()


def module_name(source: str) -> str:
    """`json.decoder` of `python3.11/json/decoder.py`."""
    return source.partition("/")[2].removesuffix(".py").replace("/", ".").removesuffix(".__init__")


def parse(content: bytes) -> ast.Module | None:
    """The module's tree; None where it is not valid Python (the library keeps templates that are not)."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            return ast.parse(content)
    except (SyntaxError, ValueError):
        return None


def line_starts(content: bytes) -> list[int]:
    """First byte of every line, and the end of the last."""
    starts = [0]
    for line in content.splitlines(keepends=True):
        starts.append(starts[-1] + len(line))
    return starts


def public_names(span: Span, content: bytes) -> Iterator[Name]:
    """The module itself and what stands at its top level without a leading underscore."""
    module = module_name(span.source)
    tree = parse(content)
    if tree is None or any(part.startswith("_") for part in module.split(".")):
        return
    yield Name(module, "module", 0, len(content))
    starts = line_starts(content)
    for node in tree.body:
        found = _kind(node)
        if found and not found[0].startswith("_"):
            end = starts[min(node.end_lineno or node.lineno, len(starts) - 1)]
            yield Name(f"{module}.{found[0]}", found[1], starts[node.lineno - 1], end)


def _kind(node: ast.stmt) -> tuple[str, str] | None:
    if isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef)):
        return node.name, "function"
    if isinstance(node, ast.ClassDef):
        raised = node.name.endswith(_RAISED) or any(ast.unparse(base).endswith(_RAISED) for base in node.bases)
        return node.name, "exception" if raised else "class"
    if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name) and _CONSTANT.match(node.targets[0].id):
        return node.targets[0].id, "constant"
    return None
