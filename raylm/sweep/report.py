"""What a sweep leaves: a table of its trials, a picture of their curves and values, and the best trial as a job file."""

from __future__ import annotations

import csv
import io
import json
import math
from typing import Any, NamedTuple

from raylm.core import toml
from raylm.core.storage import Folder

TRIALS, TABLE, PICTURE, BEST = "trials.jsonl", "trials.csv", "sweep.png", "best.toml"


class Trial(NamedTuple):
    """One finished trial. `state`: done, stopped (worse than others), failed."""

    id: str
    values: dict[str, Any]
    state: str
    metric: float | None
    """The last that was measured."""
    steps: int
    seconds: float
    error: str = ""
    curve: list[tuple[int, float]] = []
    """Steps, and the metric after them."""


def read(folder: Folder) -> list[Trial]:
    """The trials that have ended so far; of one that was run again, the last time."""
    if not folder.exists(TRIALS):
        return []
    found = [Trial(**json.loads(line)) for line in folder.read(TRIALS).decode().splitlines()]
    return list({trial.id: trial for trial in found}.values())


def add(folder: Folder, trial: Trial) -> None:
    """Keep a trial."""
    before = folder.read(TRIALS).decode() if folder.exists(TRIALS) else ""
    folder.write(TRIALS, before + json.dumps(trial._asdict()) + "\n")


def ranked(trials: list[Trial], mode: str) -> list[Trial]:
    """The best first: those that ran to the end, then the stopped by how far they came, then the failed."""
    sign = 1 if mode == "min" else -1

    def place(trial: Trial) -> tuple[Any, ...]:
        value = trial.metric if trial.metric is not None and math.isfinite(trial.metric) else math.inf * sign
        return ("done", "stopped", "failed").index(trial.state), -trial.steps, sign * value

    return sorted(trials, key=lambda trial: (place(trial)[0], 0 if trial.state == "done" else place(trial)[1], place(trial)[2]))


def write_table(folder: Folder, trials: list[Trial], metric: str) -> None:
    """trials.csv, the best first."""
    keys = list(dict.fromkeys(key for trial in trials for key in trial.values))
    held = io.StringIO()
    writer = csv.writer(held)
    writer.writerow(["trial", *keys, metric, "state", "steps", "seconds", "error"])
    for trial in trials:
        values = [trial.values.get(key, "") for key in keys]
        writer.writerow([trial.id, *values, trial.metric, trial.state, trial.steps, round(trial.seconds, 1), trial.error])
    folder.write(TABLE, held.getvalue())


def write_best(folder: Folder, data: dict[str, Any], said: str) -> None:
    """best.toml: the whole job with the values of the best trial.

    Args:
        data: the job, as TOML reads it.
        said: a line above it.
    """
    lines = [f"# {said}", "", *(f"{toml.key_text(k)} = {toml.value_text(v)}" for k, v in data.items() if k != "stages")]
    for name, stage in data["stages"].items():
        lines += ["", f"[stages.{toml.key_text(name)}]"]
        lines += [f"{toml.key_text(key)} = {toml.value_text(value)}" for key, value in stage.items()]
    folder.write(BEST, "\n".join(lines) + "\n")


def draw(folder: Folder, trials: list[Trial], metric: str, mode: str) -> None:
    """sweep.png: the metric by step on the left, each trial's values and its last metric on the right (parallel coordinates)."""
    from matplotlib import colormaps
    from matplotlib.figure import Figure

    seen = [trial for trial in trials if trial.metric is not None and math.isfinite(trial.metric)]
    figure = Figure(figsize=(12, 4.5), layout="constrained")
    curves, parallel = figure.subplots(1, 2)
    order = {trial.id: at for at, trial in enumerate(sorted(seen, key=lambda each: each.metric or 0.0, reverse=mode == "max"))}
    colours = colormaps["viridis_r"]
    for trial in seen:
        colour = colours(1 - order[trial.id] / max(len(seen) - 1, 1))
        style = {"color": colour, "linewidth": 2.2 if order[trial.id] == 0 else 1.0}
        points = [point for point in trial.curve if math.isfinite(point[1])]
        curves.plot([x for x, _ in points], [y for _, y in points], marker=".", **style)
        parallel.plot(*_line(trial, seen, metric), linestyle="-" if trial.state == "done" else ":", **style)
    curves.set_xlabel("step")
    curves.set_ylabel(metric)
    keys = _keys(seen)
    parallel.set_xticks(range(len(keys) + 1), [*keys, metric], rotation=20, ha="right")
    parallel.set_yticks([])
    for at, name in enumerate([*keys, metric]):
        parallel.axvline(at, color="0.8", linewidth=0.8, zorder=0)
        low, high = _ends(seen, name, metric)
        for place, value in ((0.0, low), (1.0, high)):
            parallel.annotate(_short(value), (at, place), fontsize=8, ha="center", va="top" if place == 0 else "bottom")
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    folder.write(PICTURE, held.getvalue())


def _keys(trials: list[Trial]) -> list[str]:
    return list(dict.fromkeys(key for trial in trials for key in trial.values))


def _value(trial: Trial, name: str, metric: str) -> Any:
    return trial.metric if name == metric and name not in trial.values else trial.values.get(name)


def _axis(trials: list[Trial], name: str, metric: str) -> list[Any]:
    """Values of one axis from bottom to top."""
    values = [_value(trial, name, metric) for trial in trials]
    numbers = all(isinstance(value, (int, float)) and not isinstance(value, bool) for value in values)
    return sorted(set(values)) if numbers else sorted({json.dumps(value) for value in values})


def _ends(trials: list[Trial], name: str, metric: str) -> tuple[Any, Any]:
    axis = _axis(trials, name, metric)
    return (axis[0], axis[-1]) if axis else ("", "")


def _line(trial: Trial, trials: list[Trial], metric: str) -> tuple[list[int], list[float]]:
    """The trial's places on the axes, 0 to 1."""
    heights = []
    for name in [*_keys(trials), metric]:
        axis, value = _axis(trials, name, metric), _value(trial, name, metric)
        if axis and isinstance(axis[0], str):
            heights.append(axis.index(json.dumps(value)) / max(len(axis) - 1, 1))
            continue
        low, high = float(axis[0]), float(axis[-1])
        if low > 0 and high / low >= 10:
            low, high, value = math.log(low), math.log(high), math.log(value)
        heights.append((value - low) / (high - low) if high > low else 0.5)
    return list(range(len(heights))), heights


def _short(value: Any) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)
