"""What was measured of each candidate beside the plain engine: a table, a page with a plot, and the best `engine` table."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core import page, toml
from raylm.serve.tune.candidates import PLAIN, Candidate

LEAST_GAIN = 1.03
"""A candidate helps when it is faster by this, and its slowest pass is faster than the plain engine's median."""


class Row(NamedTuple):
    """One candidate. `ratio`: tokens/s over the plain engine's, 0 where it failed; `equal`: answers with the plain engine's
    greedy tokens, of `of`."""

    candidate: Candidate
    result: dict[str, Any]
    ratio: float
    equal: int
    of: int
    helped: bool

    @property
    def failed(self) -> str:
        return str(self.result.get("failed", ""))

    @property
    def accepted(self) -> float | None:
        """Share of the tokens that speculation proposed which were taken; None where it proposed none."""
        return self.result["accepted"] / self.result["drafted"] if self.result.get("drafted") else None

    @property
    def verdict(self) -> str:
        """In words; never `faster` alone where answers are others."""
        if self.failed:
            return self.failed
        if self.candidate.name == PLAIN:
            return "what the others are compared with"
        speed = f"{self.ratio:.2f} times as fast"
        if self.equal < self.of:
            return f"{speed}, but {self.of - self.equal} of {self.of} answers have other greedy tokens"
        return f"{speed}, the same answers" + ("" if self.helped or self.ratio < 1 else "; within what passes differ by")

    @property
    def said(self) -> str:
        """One line for the terminal."""
        if self.failed:
            return f"{self.candidate.name}: {self.failed}"
        figures = f"{self.result['median']:,.1f} tokens/s, first token {self.result['ttft_p50_s']:.3f} s"
        return f"{self.candidate.name}: {figures}; {self.verdict}"


def row_of(candidate: Candidate, result: dict[str, Any], plain: dict[str, Any] | None) -> Row:
    """The row of one result.

    Args:
        plain: the result of the plain engine; None where there is none yet.
    """
    if "failed" in result or plain is None or "failed" in plain:
        return Row(candidate, result, 0.0, 0, 0, False)
    pairs = list(zip(result["answers"], plain["answers"], strict=True))
    equal, ratio = sum(ours == theirs for ours, theirs in pairs), result["median"] / plain["median"]
    helped = equal == len(pairs) and ratio >= LEAST_GAIN and min(result["tokens_per_s"]) > plain["median"]
    return Row(candidate, result, ratio, equal, len(pairs), helped)


def best_of(rows: list[Row]) -> Row:
    """The fastest of those that helped with the very same answers; the plain engine where none did. Another checkpoint is no
    setting of this one."""
    plain = next(row for row in rows if row.candidate.name == PLAIN)
    return max((row for row in rows if row.helped and not row.candidate.model), key=lambda row: row.ratio, default=plain)


def toml_of(row: Row) -> str:
    """The lines to paste into a serve stage."""
    table = toml.value_text(row.candidate.table) if row.candidate.table else "{}"
    return f"engine = {table}"


def write_report(folder: Path, model: str, rows: list[Row], said: dict[str, Any]) -> Path:
    """Write report.json, report.html, report.md and best.toml; returns the page's place."""
    folder.mkdir(parents=True, exist_ok=True)
    best = best_of(rows)
    head = ["candidate", "tokens/s", "of plain", "TTFT p50 s", "TTFT p95 s", "memory GB", "greedy equal", "accepted", "start s"]
    lines = [_cells(row) for row in rows]
    words = _words(rows, best)
    found = [
        {"name": row.candidate.name, "engine": row.candidate.table, "model": row.candidate.model, **_plain(row)} for row in rows
    ]
    whole = {"model": model, "asked": said, "candidates": found, "best": best.candidate.name, "engine": best.candidate.table}
    (folder / "report.json").write_text(json.dumps(whole, indent=2))
    (folder / "best.toml").write_text(f"# {words[0]}\n{toml_of(best)}\n")
    table = ["| " + " | ".join(cells) + " |" for cells in (head, ["---"] * len(head), *lines)]
    verdicts = [f"- {row.candidate.name}: {row.verdict}" for row in rows]
    parts = [f"# raylm tune-serve: {model}", *words, "", *table, "", *verdicts, "", "```toml", toml_of(best), "```", ""]
    (folder / "report.md").write_text("\n".join(parts))
    at = folder / "report.html"
    at.write_text(
        page.page(
            f"raylm tune-serve: {model}",
            words[0],
            [
                ("", page.tiles([(name.replace("_", " "), page.number(value)) for name, value in said.items()])),
                ("Tokens per second", page.bars([(row.candidate.name, row.result["median"]) for row in rows if not row.failed])),
                (
                    "Seconds to the first token, p95",
                    page.bars([(r.candidate.name, r.result["ttft_p95_s"]) for r in rows if not r.failed]),
                ),
                ("All candidates", page.table([*head, "verdict"], [[*_cells(row), row.verdict] for row in rows])),
                ("The best, for the serve stage", page.text(toml_of(best))),
                ("What to know", "".join(page.note(each) for each in words[1:])),
            ],
        )
    )
    print("\n".join([*words, "", toml_of(best), ""]), flush=True)
    return at


def _words(rows: list[Row], best: Row) -> list[str]:
    if best.candidate.name == PLAIN:
        found = ["no candidate is faster than the plain engine with the same answers: set nothing"]
    else:
        found = [f"{best.candidate.name} is the best here: {best.verdict}"]
    others = [row for row in rows if not row.failed and row.equal < row.of and row.ratio > max(best.ratio, LEAST_GAIN)]
    found += [f"{row.candidate.name} is {row.verdict}: it is not chosen, decide by an evaluation" for row in others]
    plain = next(row for row in rows if row.candidate.name == PLAIN)
    if plain.result.get("repeats_differ"):
        found.append("the plain engine itself gives other greedy tokens from pass to pass: ties are decided by the last bit here")
    found.append("on a CPU the engine is measured in one process; an endpoint has it in a process of its own")
    return found


def _cells(row: Row) -> list[str]:
    if row.failed:
        return [row.candidate.name, *["-"] * 8]
    result = row.result
    accepted = "-" if row.accepted is None else f"{row.accepted:.0%}"
    return [
        row.candidate.name,
        f"{result['median']:.1f}",
        f"{row.ratio:.2f}",
        f"{result['ttft_p50_s']:.3f}",
        f"{result['ttft_p95_s']:.3f}",
        f"{result['memory_gb']:.2f}",
        f"{row.equal}/{row.of}",
        accepted,
        f"{result['start_s']:.0f}",
    ]


def _plain(row: Row) -> dict[str, Any]:
    kept = {key: value for key, value in row.result.items() if key != "answers"}
    return {
        **kept,
        "ratio": round(row.ratio, 3),
        "greedy_equal": f"{row.equal}/{row.of}",
        "helped": row.helped,
        "verdict": row.verdict,
    }
