"""Parts of report.html: values with their intervals, comparisons, flipped instances, worst slices, cost."""

from __future__ import annotations

import math
from collections.abc import Mapping

from raylm.core import page as pages
from raylm.evaluate.comparison import SURE, Compared, Flip
from raylm.evaluate.findings import Findings
from raylm.evaluate.intervals import CONFIDENCE, Interval

Grades = Mapping[str, Mapping[str, float]]
SHOWN_FLIPS = 6
"""Flipped instances of a pair that stand open on the page; report.json has more."""
_WIDE, _LINE, _LEFT, _RIGHT = 480, 22, 150, 64


def parts(grades: Grades, better: Mapping[str, str], found: Findings) -> list[tuple[str, str]]:
    """(heading, HTML) of everything that instances say."""
    charts = pages.charts(
        interval_chart(
            metric,
            way,
            [
                (model, values[metric], found.intervals.get(model, {}).get(metric))
                for model, values in grades.items()
                if metric in values
            ],
        )
        for metric, way in better.items()
    )
    return [
        (f"Values with {CONFIDENCE:.0%} intervals", charts),
        ("Comparisons, paired by instance", comparisons(found)),
        ("Flipped instances", flipped(found)),
        ("Worst slices", slices(found)),
        ("Cost and latency", costs(found)),
    ]


def interval_chart(metric: str, direction: str, rows: list[tuple[str, float, Interval | None]]) -> str:
    """One metric: a model a line, its value as a mark on its interval. Values alone, of compressors say, have a mark alone."""
    ends = [end for _, value, interval in rows for end in (value, *(interval or ())) if math.isfinite(end)]
    if not ends:
        return ""
    least, most = min(ends), max(ends)
    room = (_WIDE - _LEFT - _RIGHT) / ((most - least) or 1.0)

    def x(value: float) -> float:
        return _LEFT + (min(max(value, least), most) - least) * room

    high, drawn = _LINE * len(rows), []
    for at, (model, value, interval) in enumerate(rows):
        y = _LINE * at + _LINE / 2
        drawn.append(f'<text x="{_LEFT - 10}" y="{y + 4:.0f}" text-anchor="end">{pages.escape(model, 22)}</text>')
        drawn.append(f'<line x1="{_LEFT}" x2="{_WIDE - _RIGHT}" y1="{y:.1f}" y2="{y:.1f}"/>')
        said = f"{pages.escape(model, 60)}: {value:.4g}"
        if interval is not None:
            start, end = x(interval.low), x(interval.high)
            said += f" ({interval.low:.4g} to {interval.high:.4g})"
            drawn.append(
                f'<rect x="{start:.1f}" y="{y - 4:.1f}" width="{max(end - start, 1):.1f}" height="8" opacity=".35">'
                f"<title>{said}</title></rect>"
            )
        drawn.append(f'<rect x="{x(value) - 1.5:.1f}" y="{y - 7:.1f}" width="3" height="14"><title>{said}</title></rect>')
        drawn.append(f'<text x="{_WIDE}" y="{y + 4:.0f}" text-anchor="end">{value:.4g}</text>')
    svg = f'<svg viewBox="0 0 {_WIDE} {high}" width="{_WIDE}" role="img">{"".join(drawn)}</svg>'
    return f"<div>{pages.heading(f'{metric} ({direction} is better)')}{svg}</div>"


def cell(value: float, interval: Interval | None) -> str:
    """A value, and its interval below it."""
    if interval is None or not all(map(math.isfinite, interval)):
        return f"{value:.4f}"
    return f"{value:.4f}<br><small>{interval.low:.4g} to {interval.high:.4g}</small>"


def verdict(one: Compared) -> str:
    """What a comparison says, in words."""
    return f"{one.winner} is better" if one.winner else "no difference is sure"


def comparisons(found: Findings) -> str:
    """A line for each pair of models in each metric, and what these numbers of instances can show."""
    rows = [
        (
            one.metric,
            f"{one.first} → {one.second}",
            f"{one.difference:+.4f}",
            f"{one.low:+.4f} to {one.high:+.4f}",
            f"{one.adjusted:.2g}",
            f"{one.num_won} : {one.num_lost}",
            one.num_pairs,
            verdict(one),
        )
        for one in sorted(found.compared, key=lambda one: one.adjusted)
    ]
    if not rows:
        return ""
    head = ("metric", "models", "difference", f"{CONFIDENCE:.0%} interval", "p, adjusted", "won : lost", "instances", "verdict")
    told = (
        f"{len(rows)} comparisons. p-values are of paired tests (exact McNemar of right and wrong, permutations else), adjusted "
        f"for their number (Benjamini-Hochberg): up to {SURE:g} a difference is called sure."
    )
    listed = "".join(f"<li>{pages.escape(one.told())}</li>" for one in found.resolutions)
    return pages.note(told) + pages.table(head, rows) + f"<ul>{listed}</ul>"


def flipped(found: Findings) -> str:
    """Both outputs of instances that one of two models has better, a fold for each pair of models and metric."""
    by_names, shown = {(one.task, one.metric, one.first, one.second): one for one in found.compared}, []
    for (task, metric, first, second), each in found.flips.items():
        one = by_names[task, metric, first, second]
        head = f"{metric}, {first} → {second}: {one.num_won} better, {one.num_lost} worse, of {one.num_pairs}"
        open_ = each[: SHOWN_FLIPS // 2] + each[len(each) - SHOWN_FLIPS // 2 :] if len(each) > SHOWN_FLIPS else each
        shown.append(pages.fold(head, "".join(_flip(flip, first, second) for flip in open_)))
    return "".join(shown)


def _flip(flip: Flip, first: str, second: str) -> str:
    heads = f"{first}: {flip.first_value:.4g}", f"{second}: {flip.second_value:.4g}"
    facts = ", ".join(f"{name} {value}" for name, value in flip.facts.items())
    asked = pages.text(flip.asked or f"instance {flip.id}") + (pages.note(facts) if facts else "")
    if not flip.first_output and not flip.second_output:
        return asked + pages.note(" → ".join(heads))
    return asked + pages.beside(flip.first_output, flip.second_output, heads)


def slices(found: Findings) -> str:
    """Where models are furthest behind themselves."""
    rows = [
        (
            one.model,
            one.metric,
            one.fact,
            one.count,
            f"{one.value:.4f}",
            f"{one.low:.4f} to {one.high:.4f}",
            f"{one.rest:.4f}",
            f"{one.adjusted:.2g}",
        )
        for one in found.slices
    ]
    if not rows:
        return ""
    told = (
        f"{found.num_slices} slices were looked at; p-values are adjusted for all of them. Above {SURE:g} a slice may be last by "
        "chance."
    )
    head = ("model", "metric", "slice", "instances", "value", f"{CONFIDENCE:.0%} interval", "all others", "p, adjusted")
    return pages.note(told) + pages.table(head, rows)


def costs(found: Findings) -> str:
    """Tokens and seconds of each model in each task."""
    rows = [
        (one.model, one.task, one.count, one.tokens, f"{one.p50_s:.3g} s", f"{one.p95_s:.3g} s", f"{one.seconds:.1f} s")
        for one in found.costs
    ]
    told = "From request to answer; what was asked side by side counts for each, so the sum is not the time that passed."
    head = ("model", "task", "instances", "tokens", "median", "95th percentile", "sum")
    return pages.note(told) + pages.table(head, rows) if rows else ""
