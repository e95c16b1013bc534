"""report.html of a training run: curves, events, facts."""

from __future__ import annotations

import io
import statistics
from collections.abc import Sequence
from typing import Any

from raylm.core import page
from raylm.core.artifact import REPORT
from raylm.core.storage import Folder
from raylm.trainer.watch.alerts import Alert

# curves in order; the rest of a row's numbers is not drawn
CURVES = {
    "reward": "reward", "reward_std": "spread of the reward", "held_out_reward": "reward of greedy held-out answers",
    "completion_tokens": "tokens of a completion", "completion_tokens_max": "tokens of the longest completion",
    "finished_share": "share of completions that end", "cut_share": "share of completions that are cut",
    "kl": "KL of policy and reference", "entropy": "entropy", "nll": "mean -log p of drawn tokens",
    "mismatch_kl": "KL of generator and trainer",
    "clip_ratio": "share of clipped tokens", "advantage_std": "spread of the advantages",
    "reward_std_zero_share": "share of groups that teach nothing", "staleness": "versions behind",
    "explained_variance": "explained variance of the critic", "critic_loss": "loss of the critic",
    "correction_weight": "weight of the rollout correction", "unscored": "without a score",
    "loss": "loss", "held_out_loss": "held-out loss", "lr": "learning rate", "grad_norm": "gradient norm",
    "tokens_per_s": "tokens per second", "mfu": "model FLOPs utilisation", "memory_gb": "memory per rank, GB",
    "data_wait_s": "wait for rows, s", "communication_s": "communication between ranks, s",
    "accuracy": "accuracy", "margin": "margin",
}  # fmt: skip
# curves that share a picture: what their names begin with, or the names themselves
SHARED = {
    "loss of each part": ("loss/",), "mean of each reward": ("reward/",), "reward of each source": ("source_reward/",),
    "seconds of an iteration": ("generate_s", "reward_s", "score_s", "update_s", "sync_s", "idle_s", "generator_idle_s"),
}  # fmt: skip
MOST_POINTS = 2000
SMOOTH = 25


def write_report(
    out: Folder,
    name: str,
    rows: list[dict[str, Any]],
    facts: dict[str, Any],
    alerts: list[Alert],
    more: Sequence[tuple[str, str]] = (),
) -> None:
    """Write `report.html` beside the checkpoint in `out`. It tells times, so it is no part of what the artifact is.

    Args:
        more: further parts of the page, (heading, HTML).
    """
    if not rows:
        return
    # of RL what rises, of training what falls
    measure = "reward" if "reward" in rows[0] else "loss"
    speeds = [row["tokens_per_s"] for row in rows if "tokens_per_s" in row]
    figures = [
        ("steps", page.number(rows[-1]["step"] + 1)),
        (f"first {measure}", _short(rows[0].get(measure))),
        (f"last {measure}", _short(rows[-1].get(measure))),
        ("tokens/s", page.number(round(statistics.median(speeds))) if speeds else "-"),
        ("alerts", page.number(len(alerts))),
    ]
    events = [(row["step"], row["event"]) for row in rows if "event" in row]
    told = [*events, *((alert.step, f"{alert.kind}: {alert.said}") for alert in alerts)]
    stalls = [row["checkpoint_stall_s"] for row in rows if "checkpoint_stall_s" in row]
    saving = f"{len(stalls)} step checkpoints held training up for {sum(stalls):.2f} s in all." if stalls else ""
    parts = [
        ("", page.tiles(figures)),
        ("Curves", page.picture(curves(rows, [step for step, _ in told]), f"curves of {name}") if len(rows) > 1 else ""),
        ("What happened", page.table(["step", "what"], sorted(told)) if told else page.note("Nothing out of the ordinary.")),
        *more,
        ("Saving", page.note(saving or "No step checkpoint was due.")),
        ("Facts", page.facts(facts)),
    ]
    out.write(REPORT, page.page(name, "One training run: every point is a step (of RL: an iteration).", parts))


def curves(rows: Sequence[dict[str, Any]], marks: Sequence[int] = ()) -> bytes:
    """All curves as one PNG; `marks` are steps at which something happened."""
    from matplotlib.figure import Figure

    panels = [(title, [key]) for key, title in CURVES.items() if _is_drawn(rows, key)]
    names = sorted({key for row in rows for key in row})
    for title, begins in SHARED.items():
        if together := [name for name in names if name.startswith(begins) and _is_drawn(rows, name, 1)]:
            panels.append((title, together))
    figure = Figure(figsize=(11, 2.6 * -(-len(panels) // 2)), layout="constrained")
    for at, (title, keys) in enumerate(panels, 1):
        axes = figure.add_subplot(-(-len(panels) // 2), 2, at)
        for name in keys:
            steps, values = _points(rows, name)
            label = name.partition("/")[2] or name
            axes.plot(steps, values, linewidth=0.6, alpha=0.5 if name == "loss" else 0.9, label=label)
            if name == "loss":
                axes.plot(steps, _smoothed(values), linewidth=1.4)
        for mark in marks:
            axes.axvline(mark, color="tab:red", linewidth=0.5, alpha=0.5)
        if title in SHARED:
            axes.legend(fontsize=7)
        axes.set_title(title, fontsize=9)
        axes.tick_params(labelsize=7)
        axes.grid(alpha=0.2)
    held = io.BytesIO()
    figure.savefig(held, format="png", dpi=110)
    return held.getvalue()


def _is_drawn(rows: Sequence[dict[str, Any]], name: str, least: int = 2) -> bool:
    return sum(_is_number(row.get(name)) for row in rows) >= least


def _points(rows: Sequence[dict[str, Any]], name: str) -> tuple[list[int], list[float]]:
    """Steps and values, thinned to what a picture can show."""
    found = [(row["step"], float(row[name])) for row in rows if _is_number(row.get(name))]
    kept = found[:: -(-len(found) // MOST_POINTS) or 1]
    return [step for step, _ in kept], [value for _, value in kept]


def _smoothed(values: Sequence[float]) -> list[float]:
    """Running median over up to 25 points before each: one spike does not bend it."""
    return [statistics.median(values[max(0, at - SMOOTH) : at + 1]) for at in range(len(values))]


def _short(value: Any) -> str:
    return f"{value:.3f}" if _is_number(value) else "not finite"


def _is_number(value: Any) -> bool:
    return isinstance(value, (int, float)) and value == value and abs(value) != float("inf")
