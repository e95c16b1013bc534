"""The few figures of a finished stage that a person reads first: a table on the terminal, a table of the run's page.

Which figures these are stands with each verb (`StageConfig.figures`). A figure that was measured twice is `before -> after`.
"""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from typing import Any, NamedTuple

from rich import box
from rich.console import Console
from rich.table import Table

from raylm.core.artifact import Artifact
from raylm.core.page import number, size

MOST = 8
# (what a metric measured before ends with, what it ends with after)
TWICE = (("_before", "_after"), ("_first", "_last"), ("_in", ""))


class Figure(NamedTuple):
    """One row: `before` is empty where there is no value to compare with."""

    name: str
    before: str
    value: str


def figures(names: Sequence[str], metrics: dict[str, Any], facts: dict[str, Any] | None = None) -> list[Figure]:
    """The first `MOST` of `names` that the stage has measured; a count of nothing (no restarts, nothing dropped) is left out."""
    known, found = {**(facts or {}), **metrics}, []
    for name in names:
        before, value = next(
            ((known.get(name + one), known[name + two]) for one, two in TWICE if name + one in known and name + two in known),
            (None, known.get(name)),
        )
        if value is None or isinstance(value, dict | list) or (before is None and value == 0 and not isinstance(value, bool)):
            continue
        found.append(Figure(_label(name), "" if before is None else _shown(name, before), _shown(name, value)))
    return found[:MOST]


def of_artifact(names: Sequence[str], artifact: Artifact) -> list[Figure]:
    """`figures` of a finished stage."""
    return figures(names, artifact.metrics, artifact.facts)


def of_stage(stage: str, names: Sequence[str], artifact: Artifact, seconds: float) -> str:
    """What is said when a stage is done: how long it took, how large it is, its figures."""
    files = len(artifact.manifest.files)
    line = f"{stage}: done in {duration(seconds)}, {files} {'file' if files == 1 else 'files'}, {size(nbytes(artifact))}"
    return "\n".join(filter(None, (line, table(of_artifact(names, artifact), sys.stdout.isatty()))))


def nbytes(artifact: Artifact) -> int:
    """Bytes of all its files."""
    return sum(entry.bytes for entry in artifact.manifest.files)


def table(found: Sequence[Figure], terminal: bool, width: int = 100) -> str:
    """The figures as lines of text, indented; with colours on a terminal."""
    if not found:
        return ""
    twice = any(figure.before for figure in found)
    drawn = Table(box=box.SIMPLE_HEAD if terminal else None, pad_edge=False, show_header=terminal and twice)
    drawn.add_column("", style="dim" if terminal else "")
    if twice:
        drawn.add_column("before", justify="right")
        drawn.add_column("", style="dim")
    drawn.add_column("after" if twice else "", justify="right" if twice else "left")
    for figure in found:
        middle = (figure.before, "->" if figure.before else "") if twice else ()
        drawn.add_row(figure.name, *middle, figure.value)
    console = Console(file=io.StringIO(), force_terminal=terminal, width=width, highlight=False)
    console.print(drawn)
    lines = console.file.getvalue().splitlines()  # type: ignore[attr-defined]
    return "\n".join(f"  {line.rstrip()}" for line in lines if line.strip())


def duration(seconds: float) -> str:
    """`12.3 s`, `7 min 15 s`, `2 h 05 min`."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s" if minutes < 60 else f"{minutes // 60} h {minutes % 60:02d} min"


def _label(name: str) -> str:
    name = name.replace("held_out", "held-out").replace("_per_s", "/s").removeprefix("num_").removesuffix("_s")
    return name.replace("_", " ")


def _shown(name: str, value: Any) -> str:
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, int | float):
        if name == "bytes" or name.endswith("_bytes"):
            return size(value)
        if name.endswith("_s") and not name.endswith("_per_s"):
            return duration(value)
        if isinstance(value, float) and value == value and 0.0005 <= abs(value) < 1000:
            return f"{value:.3g}" if abs(value) >= 100 else f"{value:.4g}"
    return number(value)
