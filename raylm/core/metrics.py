"""Step metrics: metrics.jsonl, and a live line with rate and ETA."""

from __future__ import annotations

import json
import math
import sys
import time
from typing import Any

from raylm.core.artifact import METRICS
from raylm.core.storage import Folder


class MetricLog:
    """One JSON object a line, one line a step. A resumed run rewinds to its last checkpoint, so no step stands twice."""

    def __init__(self, folder: Folder) -> None:
        self._folder = folder
        self.rows: list[dict[str, Any]] = read_metrics(folder)

    def add(self, step: int, values: dict[str, Any]) -> None:
        """Append one row; on a local disk it is on file before this returns."""
        row = {"step": step, **values}
        self.rows.append(row)
        if self._folder.is_local:
            self._folder.make()
            with open(self._folder.path(METRICS), "a", encoding="utf-8") as file:
                file.write(as_json(row) + "\n")

    def rewrite(self, rows: list[dict[str, Any]]) -> None:
        """Replace the whole history, in one step."""
        self.rows = list(rows)
        self.flush()

    def flush(self) -> None:
        """Write the whole history; object stores cannot append."""
        self._folder.write(METRICS, "".join(as_json(row) + "\n" for row in self.rows))


def as_json(row: dict[str, Any]) -> str:
    """One line of JSON; what is no finite number is null, for JSON knows no NaN."""
    plain = {key: None if isinstance(value, float) and not math.isfinite(value) else value for key, value in row.items()}
    return json.dumps(plain, allow_nan=False)


def read_metrics(folder: Folder) -> list[dict[str, Any]]:
    """Rows of a metrics.jsonl; a last line that a crash cut short is left out; [] when there is no file."""
    if not folder.exists(METRICS):
        return []
    rows = []
    for line in folder.read(METRICS).decode().splitlines():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


class StageGauges:
    """How far a stage is, as gauges on Ray's metrics port: `ray_raylm_stage_done`, `ray_raylm_stage_total`.

    Args:
        tags: job, stage, verb and unit.
    """

    def __init__(self, tags: dict[str, str]) -> None:
        self._tags, self._made = tags, []

    def set(self, done: int, total: int) -> None:
        """Tell it; Ray must have been joined."""
        if not self._made:
            from ray.util.metrics import Gauge

            keys = tuple(self._tags)
            self._made = [
                Gauge("raylm_stage_done", description="parts of a stage that are finished", tag_keys=keys),
                Gauge("raylm_stage_total", description="parts of a stage", tag_keys=keys),
            ]
        for gauge, value in zip(self._made, (done, total), strict=True):
            gauge.set(value, self._tags)


class Progress:
    """One line on the terminal: name, done of total, rate, ETA, latest values. Plain lines where no terminal is."""

    def __init__(self, name: str, total: int, unit: str, every_s: float = 10.0, gauges: StageGauges | None = None) -> None:
        from rich.console import Console

        self._gauges = gauges

        self._name, self._total, self._unit, self._every_s = name, total, unit, every_s
        self._console = Console(stderr=True, highlight=False)
        self._live = sys.stderr.isatty()
        self._started = self._printed = time.monotonic()
        self._from: int | None = None
        self._status = None

    def __enter__(self) -> Progress:
        if self._live:
            self._status = self._console.status(f"{self._name} ...")
            self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._status:
            self._status.stop()

    def to(self, done: int, **values: Any) -> None:
        """Show that `done` of the total are finished."""
        if self._gauges:
            self._gauges.set(done, self._total)
        now = time.monotonic()
        if self._from is None:
            # the first report after a resume is where the rate starts, not zero
            self._from, self._started = done, now
        if self._status:
            self._status.update(self._line(done, now, values))
        elif now - self._printed >= self._every_s:
            self._printed = now
            self._console.print(self._line(done, now, values))

    def _line(self, done: int, now: float, values: dict[str, Any]) -> str:
        gained, spent = done - (self._from or 0), now - self._started
        rate = gained / spent if spent > 0 and gained > 0 else 0.0
        eta = f", {(self._total - done) / rate:.0f} s left" if rate else ""
        shown = "  ".join(f"{key} {_short(value)}" for key, value in values.items())
        return f"  {self._name}: {done}/{self._total} {self._unit} ({rate:.1f}/s{eta})  {shown}"


def _short(value: Any) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)
