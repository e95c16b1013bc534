"""What a stage that updates weights shows of itself, at the driver: metrics.jsonl, sinks, alerts, progress, report.html."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from types import TracebackType
from typing import TYPE_CHECKING, Any

from raylm.core.context import Context
from raylm.trainer.goodput import Goodput
from raylm.trainer.history import History
from raylm.trainer.watch.report import write_report
from raylm.trainer.watch.sinks.sink import Run
from raylm.trainer.watch.watch import Watching

if TYPE_CHECKING:
    from raylm.trainer.config import TrainerConfig


class Recorder:
    """The rows of one run, from its first step or from where it goes on. Use as a context: sinks are closed at its end.

    Args:
        total, unit: length of the run, for the line of progress.
        shown: metrics on that line.
    """

    def __init__(self, cfg: TrainerConfig, ctx: Context, total: int, unit: str, shown: tuple[str, ...]) -> None:
        self._ctx, self._shown = ctx, shown
        self._name = f"{ctx.out.uri.rstrip('/').split('/')[-2]}/{ctx.stage}"
        self._goodput = Goodput([row["step"] for row in ctx.metric_rows])
        self._watching = Watching(cfg.watch, Run(self._name, ctx.out.uri, cfg.model_dump(mode="json")), _say)
        self._bar = ctx.progress(total, unit)

    def __enter__(self) -> Recorder:
        self._bar.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, cause: BaseException | None, trace: TracebackType | None) -> None:
        self._watching.close()
        self._bar.__exit__(kind, cause, trace)

    def row(self, step: int, values: dict[str, Any]) -> None:
        """One row of metrics."""
        self._goodput.row(step)
        self._watching.row(step, {"step": step, **values})
        self._ctx.log(step, **values)
        if "checkpoint_s" in values:
            self._ctx.flush()
        self._bar.to(step + 1, **{key: values[key] for key in self._shown if key in values})

    def rewind(self, step: int, rollback: bool = False) -> None:
        """The run goes on from the checkpoint of `step`: the rows are what that one knew.

        Args:
            rollback: the ranks themselves went back; they are no new group.
        """
        self._goodput.rewind(step, rollback)
        self._ctx.rewind(History(self._ctx.work).read(step))

    def from_ranks(self, kind: str, values: Any) -> None:
        """What ranks send, as `RankGroup.call` hands it on."""
        if kind == "row":
            self.row(values["step"], {key: value for key, value in values.items() if key != "step"})
        else:
            self.rewind(values, rollback=kind == "rollback")

    def metrics(self, watched: str) -> dict[str, float]:
        """First and last value of the metric `watched`, median tokens per second, lost steps, restarts, goodput."""
        rows = self._ctx.metric_rows
        found = [row[watched] for row in rows if watched in row]
        speeds = sorted(row["tokens_per_s"] for row in rows if "tokens_per_s" in row)
        ends = {f"{watched}_first": found[0], f"{watched}_last": found[-1]} if found else {}
        return {**ends, **({"tokens_per_s": round(speeds[len(speeds) // 2], 1)} if speeds else {}), **self._goodput.metrics()}

    def report(self, facts: dict[str, Any], more: Sequence[tuple[str, str]] = ()) -> None:
        """Write report.html; `more` are further parts of the page, (heading, HTML)."""
        write_report(self._ctx.out, self._name, self._ctx.metric_rows, facts, self._watching.alarm.raised, more)


def _say(line: str) -> None:
    print(f"  {line}", file=sys.stderr)
