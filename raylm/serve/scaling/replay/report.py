"""What replays came to: a table, and a picture of replicas, queue and first tokens over time."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

from raylm.core.page import escape
from raylm.serve.scaling.replay.simulate import Replay

COLOURS = ("#3c6fb4", "#d9805f", "#5d9c6a", "#8a6bb0", "#b59a3c", "#6b7280")
WIDE, HIGH, LEFT, GAP = 860, 130, 64, 34
BINS = 120


def figures(replay: Replay, target_ttft_s: float) -> dict[str, Any]:
    """One replay in numbers. A request that was refused, or got no token, missed the target."""
    waits = sorted(each.ttft_s for each in replay.served if each.ttft_s is not None)
    count = len(replay.served)
    return {
        "name": replay.name,
        "requests": count,
        "refused": sum(each.refused for each in replay.served),
        "in_time": round(sum(wait <= target_ttft_s for wait in waits) / count, 4) if count else None,
        "ttft_p50": percentile(waits, 0.5),
        "ttft_p90": percentile(waits, 0.9),
        "ttft_p99": percentile(waits, 0.99),
        "replica_s": round(replay.replica_s, 1),
        "most": max((each.running + each.starting for each in replay.moments), default=0),
        "ups": sum(each["replicas"] > each["before"] for each in replay.decisions),
        "downs": sum(each["replicas"] < each["before"] for each in replay.decisions),
    }


def percentile(ordered: Sequence[float], part: float) -> float | None:
    """The smallest value that `part` of all do not exceed; None of nothing."""
    return round(ordered[max(0, math.ceil(part * len(ordered)) - 1)], 3) if ordered else None


HEADS = {
    "name": "policy", "requests": "requests", "refused": "refused", "in_time": "in time", "ttft_p50": "TTFT p50",
    "ttft_p90": "p90", "ttft_p99": "p99 s", "replica_s": "replica-s", "most": "most", "ups": "ups", "downs": "downs",
}  # fmt: skip


def table(rows: Sequence[dict[str, Any]]) -> list[str]:
    """Lines, aligned."""
    cells = [list(HEADS.values()), *([_cell(row[name]) for name in HEADS] for row in rows)]
    wide = [max(len(row[at]) for row in cells) for at in range(len(HEADS))]
    return ["  ".join(f"{cell:<{wide[0]}}" if not at else f"{cell:>{wide[at]}}" for at, cell in enumerate(row)) for row in cells]


def _cell(value: Any) -> str:
    if value is None:
        return "-"
    return (
        f"{value:.3f}" if isinstance(value, float) and value < 100 else f"{value:.0f}" if isinstance(value, float) else str(value)
    )


class _Panel(NamedTuple):
    title: str
    points: list[list[tuple[float, float]]]
    """Of each replay, (seconds, value)."""
    steps: bool = False
    line: float | None = None


def picture(replays: Sequence[Replay], target_ttft_s: float) -> str:
    """An SVG: a panel each for replicas, tokens that wait, and the 90th percentile of the first token by when requests came."""
    end = max((each.moments[-1].at for each in replays if each.moments), default=1.0) or 1.0
    panels = [
        _Panel("replicas that run", [_seen(each, lambda moment: moment.running) for each in replays], steps=True),
        _Panel("tokens of prompts that wait", [_seen(each, lambda moment: moment.queued_tokens) for each in replays]),
        _Panel("seconds to the first token, p90", [_late(each, end) for each in replays], line=target_ttft_s),
    ]
    high = GAP + len(panels) * (HIGH + GAP)
    names = [
        f'<rect x="{LEFT + 190 * at}" y="8" width="12" height="12" fill="{_colour(at)}"/>'
        f'<text x="{LEFT + 190 * at + 17}" y="18">{escape(each.name, 26)}</text>'
        for at, each in enumerate(replays)
    ]
    drawn = [_draw(panel, GAP + at * (HIGH + GAP), end) for at, panel in enumerate(panels)]
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {LEFT + WIDE + 20} {high}" width="{LEFT + WIDE + 20}" '
        f'font-family="system-ui,sans-serif" font-size="12" role="img" aria-label="policies over time">'
        f'<rect width="100%" height="100%" fill="#fff"/>{"".join(names)}{"".join(drawn)}</svg>\n'
    )


def _seen(replay: Replay, value: Callable[[Any], float]) -> list[tuple[float, float]]:
    return [(each.at, float(value(each))) for each in replay.moments]


def _late(replay: Replay, end: float) -> list[tuple[float, float]]:
    bins: dict[int, list[float]] = {}
    for each in replay.served:
        if each.ttft_s is not None:
            bins.setdefault(int(each.at / end * BINS), []).append(each.ttft_s)
    return [((at + 0.5) * end / BINS, percentile(sorted(found), 0.9) or 0.0) for at, found in sorted(bins.items())]


def _draw(panel: _Panel, top: int, end: float) -> str:
    most = max((value for points in panel.points for _, value in points), default=0.0)
    most = max(most, panel.line or 0.0) * 1.05 or 1.0

    def place(at: float, value: float) -> str:
        return f"{LEFT + at / end * WIDE:.1f},{top + HIGH - value / most * HIGH:.1f}"

    parts = [
        f'<text x="{LEFT}" y="{top - 5}" fill="#667080">{escape(panel.title)}</text>',
        f'<path d="M{place(0, most)}L{place(0, 0)}L{place(end, 0)}" fill="none" stroke="#c9ced6"/>',
        f'<text x="{LEFT - 6}" y="{top + 9}" text-anchor="end" fill="#667080">{most / 1.05:.4g}</text>',
        f'<text x="{LEFT - 6}" y="{top + HIGH}" text-anchor="end" fill="#667080">0</text>',
        f'<text x="{LEFT + WIDE}" y="{top + HIGH + 14}" text-anchor="end" fill="#667080">{end:.0f} s</text>',
    ]
    if panel.line is not None:
        parts.append(f'<path d="M{place(0, panel.line)}L{place(end, panel.line)}" stroke="#b0b6c0" stroke-dasharray="4 4"/>')
    for number, points in enumerate(panel.points):
        path, before = [], None
        for at, value in points:
            # a count stays until it is another
            path += [place(at, before)] if panel.steps and before is not None else []
            path.append(place(at, value))
            before = value
        if path:
            parts.append(f'<path d="M{"L".join(path)}" fill="none" stroke="{_colour(number)}" stroke-width="1.6"/>')
    return "".join(parts)


def _colour(at: int) -> str:
    return COLOURS[at % len(COLOURS)]
