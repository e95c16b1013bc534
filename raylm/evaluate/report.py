"""report.html of an evaluate stage: grades, and the training curves that led there."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

from raylm.core import page as pages
from raylm.core.artifact import Artifact, Checkpoint, open_artifact
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.evaluate import figures
from raylm.evaluate.findings import Findings
from raylm.evaluate.intervals import Interval

MOST_LINES = 6
"""Comparisons that the terminal shows; the page has all."""
CURVES = ("reward", "accuracy", "loss")


def road(models: list[Artifact]) -> list[Artifact]:
    """The checkpoints that led to `models`, oldest first, each once."""
    found: dict[str, Artifact] = {}

    def visit(artifact: Artifact) -> None:
        for entry in artifact.manifest.inputs:
            if entry.kind == Checkpoint.kind and Folder(entry.uri).exists("manifest.json"):
                visit(open_artifact(Folder(entry.uri)))
        found.setdefault(artifact.uri, artifact)

    for model in models:
        visit(model)
    return list(found.values())


def picture(stages: list[Artifact]) -> bytes:
    """PNG with one panel per trained stage: its loss, and its accuracy or reward where it has one."""
    import matplotlib

    matplotlib.use("agg")
    import matplotlib.pyplot as plt

    curves = [(stage.manifest.stage, read_metrics(stage.folder)) for stage in stages]
    curves = [(name, rows) for name, rows in curves if rows]
    figure, panels = plt.subplots(1, max(len(curves), 1), figsize=(4 * max(len(curves), 1), 3), squeeze=False)
    for panel, (name, rows) in zip(panels[0], curves, strict=False):
        shown = next(key for key in CURVES if key in rows[0])
        panel.plot([row["step"] for row in rows], [row[shown] for row in rows], linewidth=1.2)
        panel.set_title(f"{name}: {shown}")
        panel.set_xlabel("step")
        panel.grid(alpha=0.3)
    figure.tight_layout()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=110, metadata={"Software": None})
    plt.close(figure)
    return buffer.getvalue()


def page(
    title: str,
    grades: dict[str, dict[str, float]],
    better: dict[str, str],
    png: bytes,
    notes: list[str],
    found: Findings | None = None,
    parts: Sequence[tuple[str, str]] = (),
) -> str:
    """The whole report as one HTML page without outside parts.

    Args:
        found: what the instances say.
        parts: (heading, HTML) of tasks' own.
    """
    intervals = found.intervals if found else {}
    metrics = list(better)
    head = "".join(f'<th class="n">{pages.escape(name)}<br><small>{better[name]} is better</small></th>' for name in metrics)
    body = "".join(
        f"<tr><td>{pages.escape(name)}</td>"
        + "".join(f'<td class="n">{_with_interval(values, metric, intervals.get(name, {}))}</td>' for metric in metrics)
        + "</tr>"
        for name, values in grades.items()
    )
    listed = "".join(f"<li>{pages.escape(note)}</li>" for note in notes)
    grid = f'<div class="scroll"><table><tr><th>model</th>{head}</tr>{body}</table></div><ul>{listed}</ul>'
    more = figures.parts(grades, better, found) if found else []
    return pages.page(title, "", [("", grid), *more, *parts, ("Curves", pages.picture(png, "training curves"))])


def table(grades: dict[str, dict[str, float]], better: dict[str, str]) -> Any:
    """The same table for the terminal."""
    from rich.table import Table

    shown = Table(title=None)
    shown.add_column("model")
    for metric, direction in better.items():
        shown.add_column(f"{metric} ({direction} is better)", justify="right")
    for name, values in grades.items():
        shown.add_row(name, *[cell(values, metric) for metric in better])
    return shown


def short(found: Findings, model: str) -> list[str]:
    """What is sure of a model against those before it, and how much that is of all that was compared: for the terminal."""
    sure = [one for one in found.compared if one.second == model and one.winner]
    lines = [
        f"{one.second} against {one.first}: {one.metric} {one.difference:+.4f} "
        f"({one.low:+.4f} to {one.high:+.4f}, p {one.adjusted:.2g})"
        for one in sure[-MOST_LINES:]
    ]
    total = sum(one.second == model for one in found.compared)
    more = f", {len(lines)} of them shown" if len(sure) > len(lines) else ""
    return [*lines, f"{len(sure)} of {total} differences of {model} are sure{more}"] if total else []


def _with_interval(values: dict[str, float], metric: str, intervals: dict[str, Interval]) -> str:
    return figures.cell(values[metric], intervals.get(metric)) if metric in values else "-"


def cell(values: dict[str, float], metric: str) -> str:
    """One value, or a dash where the task was not asked."""
    return f"{values[metric]:.4f}" if metric in values else "-"
