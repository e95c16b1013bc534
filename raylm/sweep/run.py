"""`raylm sweep`: tries values of one train stage's keys, stops the worse ones early, and leaves the best as a job file."""

from __future__ import annotations

import argparse
import math
import time
from collections.abc import Callable
from typing import Any

from raylm import job
from raylm.core import toml
from raylm.core.artifact import open_artifact
from raylm.core.config import did_you_mean, digest_of, references
from raylm.core.context import Context
from raylm.core.errors import ConfigError, DriftError, RaylmError, TrainingError
from raylm.core.room import total
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.parallel.group.driver import RANKS
from raylm.sweep import ranges, report
from raylm.sweep.ranges import Range
from raylm.sweep.report import BEST, PICTURE, TABLE, Trial
from raylm.train.config import Train

ASKED = "sweep.json"
MEASURED = 10
"""Times that a trial is measured where the stage does not say how often."""
KEPT = ("metrics.jsonl", "manifest.json", "report.html")
"""What is kept of trials that are not the best."""


class Sweep:
    """One sweep.

    Args:
        data: the job as TOML reads it, overrides taken in.
        source: for messages.
    """

    def __init__(self, data: dict[str, Any], source: toml.Source, stage: str, over: list[Range], metric: str, mode: str) -> None:
        self._data, self._source, self.stage, self.over, self.metric, self.mode = data, source, stage, over, metric, mode
        self.job = toml.check(job.Job, data, source)
        cfg = self.job.stages.get(stage)
        if not isinstance(cfg, Train):
            raise ConfigError(
                f"{stage!r} is no train stage of this job.{did_you_mean(stage, self.job.stages)}", where=source.name
            )
        self.folder = self.job.folder(f"{stage}.sweep")
        if not self.folder.is_local:
            raise ConfigError("a sweep keeps its state on a local disk", where=self.folder.uri, next="--set root=runs")
        for each in over:
            for value in each.ends:
                self.config({each.key: value})

    def changed(self, values: dict[str, Any]) -> dict[str, Any]:
        """The job with `values` of the stage's keys."""
        words = [f"stages.{self.stage}.{key}={toml.value_text(value)}" for key, value in values.items()]
        return toml.override(self._data, words)

    def config(self, values: dict[str, Any]) -> Train:
        """The stage with `values`; it measures the metric on the way. Raises ConfigError for values that no stage takes."""
        made = toml.check(job.Job, self.changed(values), self._source)
        job.check_chain(made, self._source)
        cfg = made.stages[self.stage]
        assert isinstance(cfg, Train)
        return cfg

    def make_inputs(self) -> None:
        """Run what the stage reads, once for all trials."""
        steps = {step.name: step for step in job.plan(self.job)}
        for ref in references(self.job.stages[self.stage]):
            if ref.value in steps and steps[ref.value].state != "ready":
                job.run(self.job, only=ref.value)

    def inputs(self) -> dict[str, str]:
        """What tells each stage that is read from another making of it, once they are made."""
        read = {ref.value for ref in references(self.job.stages[self.stage])} & self.job.stages.keys()
        made = {name: open_artifact(self.job.folder(name)) for name in sorted(read)}
        return {name: f"{each.fingerprint} {each.content}" for name, each in made.items()}

    def context(self, name: str, cfg: Train, workers: Workers, heard: Callable[..., None]) -> Context:
        """Where a trial reads and writes; `heard` gets its rows."""
        folders = {each: self.job.folder(each) for each in self.job.stages}
        table = cfg.model_dump(mode="json")
        more = {"config": table, "identity": {}, "inputs": [], "fingerprint": digest_of(cfg.identity())}
        return _TrialContext(heard, stage=name, out=(self.folder / name).make(), stages=folders, workers=workers, **more)


class _TrialContext(Context):
    def __init__(self, heard: Callable[..., None], **more: Any) -> None:
        super().__init__(**more)
        self._heard = heard

    def log(self, step: int, **values: Any) -> None:
        super().log(step, **values)
        self._heard(step, values)


def run(arguments: argparse.Namespace) -> int:
    """Run the trials that are missing, and print what was found."""
    data, source = toml.read(arguments.job, arguments.set)
    sweep = Sweep(data, source, arguments.stage, ranges.read(arguments.over), arguments.metric, arguments.mode)
    trials, drawn = ranges.num_trials(sweep.over, arguments.trials)
    asked = {
        "stage": sweep.job.stages[sweep.stage].identity(), "over": arguments.over, "trials": trials, "metric": sweep.metric,
        "mode": sweep.mode, "seed": arguments.seed, "early_stopping": not arguments.all, "reduction": arguments.reduction,
    }  # fmt: skip
    _same(sweep.folder, asked, arguments.anew)
    sweep.make_inputs()
    # trials on other rows, or from other weights, are not compared with these
    _same(sweep.folder, {"inputs": sweep.inputs()}, anew=False)
    workers = Workers(wanted_cpus=total(sweep.job.stages[sweep.stage].roles()) + 3)
    try:
        found = tried(sweep, workers, trials, drawn, arguments)
    finally:
        workers.stop()
    return _told(sweep, found)


def _told(sweep: Sweep, found: list[Trial]) -> int:
    """Write the best job and the picture, and say what was found."""
    best = found[0]
    if best.state != "done":
        raise TrainingError(
            f"no trial of {len(found)} ran to its end: {best.error or 'all were stopped'}",
            where=sweep.folder.path(TABLE),
            next="try other ranges, or --all to stop none early",
        )
    said = f"the best of {len(found)} trials of {sweep.stage}: {sweep.metric} {best.metric:.6g} with {_words(best.values)}"
    report.write_best(sweep.folder, sweep.changed(best.values), said)
    report.draw(sweep.folder, found, sweep.metric, sweep.mode)
    counts = ", ".join(f"{sum(t.state == state for t in found)} {state}" for state in ("done", "stopped", "failed"))
    print(f"{said}\n{counts}; table: {sweep.folder.path(TABLE)}; picture: {sweep.folder.path(PICTURE)}")
    print(f"its weights: {sweep.folder.path(best.id)}")
    print(f"next: raylm run {sweep.folder.path(BEST)} --rebuild {sweep.stage}")
    return 0


def tried(sweep: Sweep, workers: Workers, trials: int, drawn: bool, arguments: argparse.Namespace) -> list[Trial]:
    """Run what is missing of the trials; all of them, the best first."""
    from raylm.sweep.trials import Search, run_trials
    from raylm.train.stage import prepared

    cfg = sweep.config({})
    workers.ensure()
    steps = prepared(cfg, sweep.context("base", cfg, workers, lambda *_: None))[1].steps
    every = cfg.evaluate_every or max(1, steps // MEASURED)
    search = Search(
        space={each.key: each.space(drawn) for each in sweep.over},
        samples=trials if drawn else 1,
        metric=sweep.metric,
        mode=sweep.mode,
        steps=steps,
        grace=None if arguments.all else arguments.grace or every,
        reduction=arguments.reduction,
        seed=arguments.seed,
    )

    asked = 0

    def train(values: dict[str, Any], heard: Callable[..., None]) -> str:
        nonlocal asked
        asked += 1
        print(f"trial {asked}/{trials}: {_words(values)}", flush=True)
        # equal values have one folder, in every run of the sweep
        name = digest_of(values)[:8]
        before = next((trial for trial in report.read(sweep.folder) if trial.id == name), None)
        return _again(before, sweep.metric, heard) if before else _one(sweep, workers, name, values, every, heard)

    run_trials(search, train)
    found = report.ranked(report.read(sweep.folder), sweep.mode)
    report.write_table(sweep.folder, found, sweep.metric)
    for trial in found[1:]:
        # those of a sweep that was broken off too
        _thin(sweep.folder / trial.id)
    return found


def _again(before: Trial, metric: str, heard: Callable[..., None]) -> str:
    """What a trial that has ended said, once more: Ray Tune decides about the others by it."""
    print(f"  as before: {before.state}", flush=True)
    for step, value in before.curve:
        heard({metric: value, "step": step})
    return before.error


def _one(sweep: Sweep, workers: Workers, name: str, values: dict[str, Any], every: int, heard: Callable[..., None]) -> str:
    """One trial; an error's words, or ""."""
    from raylm.sweep.trials import TrialStopped
    from raylm.train.stage import run as run_stage

    curve: list[tuple[int, float]] = []
    started, last, over = time.monotonic(), 0, False

    def row(step: int, given: dict[str, Any]) -> None:
        nonlocal last, over
        if over:
            return  # what the ranks still sent while they left
        last = step + 1
        value = given.get(sweep.metric)
        if value is not None:
            curve.append((step + 1, float(value)))
        over = True
        heard(None if value is None else {sweep.metric: float(value), "step": step + 1})
        over = False

    def ended(state: str, metric: float | None, error: str = "") -> None:
        seconds = time.monotonic() - started
        print(f"  {state}" + (f", {sweep.metric} {metric:.6g}" if metric is not None else "") + f": {last} steps", flush=True)
        report.add(sweep.folder, Trial(name, values, state, metric, last, seconds, error, curve))

    try:
        cfg = sweep.config(values)
        cfg = cfg.model_copy(update={"evaluate_every": cfg.evaluate_every or every})
        ctx = sweep.context(name, cfg, workers, row)
        made = run_stage(cfg, ctx)
    except TrialStopped:
        ended("stopped", curve[-1][1] if curve else None)
        _thin(sweep.folder / name)
        raise
    except (RaylmError, RuntimeError, ValueError, OSError) as cause:
        # ranks that failed are no ranks for the next trial
        workers.release(RANKS)
        ended("failed", None, next(iter(str(cause).splitlines()), type(cause).__name__))
        _thin(sweep.folder / name)
        return f"{type(cause).__name__}: {cause}"
    metric = made.metrics.get(f"{sweep.metric}_after", curve[-1][1] if curve else None)
    if metric is None or not math.isfinite(metric):
        ended("failed", None, f"no finite {sweep.metric} was measured")
        return f"no finite {sweep.metric} was measured"
    ended("done", float(metric))
    for other in report.ranked(report.read(sweep.folder), sweep.mode)[1:]:
        _thin(sweep.folder / other.id)
    return ""


def _thin(folder: Folder) -> None:
    """Let go of weights and step checkpoints."""
    for name in folder.files():
        if name not in KEPT:
            folder.remove(name)


def _same(folder: Folder, asked: dict[str, Any], anew: bool) -> None:
    """Keep what was asked. Raises DriftError where the sweep in `folder` was asked something else."""
    if anew:
        folder.remove()
    before = folder.read_json(ASKED) if folder.exists(ASKED) else {}
    if differs := [key for key in asked if key in before and asked[key] != before[key]]:
        raise DriftError(
            f"another sweep lies here, it differs in {', '.join(differs)}", where=folder.uri, next="add --anew to forget it"
        )
    folder.make().write_json(ASKED, {**before, **asked})


def _words(values: dict[str, Any]) -> str:
    return ", ".join(f"{key} = {value:.4g}" if isinstance(value, float) else f"{key} = {value}" for key, value in values.items())
