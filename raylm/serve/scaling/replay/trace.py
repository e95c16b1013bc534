"""Requests of the past: when they came, and how many tokens they had.

audit log (.audit/{stage}/*.jsonl), or a file of lines {"at": s, "prompt_tokens": n, "completion_tokens": n} -> [Arrival, ...]
"""

from __future__ import annotations

import json
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.errors import DataError

MADE = frozenset({"/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"})


class Arrival(NamedTuple):
    """A request."""

    at: float
    """Seconds since the first one."""
    prompt: int
    """Tokens, at least 1."""
    answer: int
    """Tokens, at least 1."""


class Took(NamedTuple):
    """What a request of the past took; for calibration."""

    arrival: Arrival
    first_s: float
    """Until the first byte of the answer."""
    seconds: float


class Trace(NamedTuple):
    """Requests in the order in which they came."""

    requests: tuple[Took, ...]
    skipped: int = 0
    """Lines of other models, of requests that failed, that made no text, or that nobody counted."""
    where: str = ""

    @property
    def arrivals(self) -> list[Arrival]:
        """When they came, with their tokens."""
        return [each.arrival for each in self.requests]

    @property
    def span_s(self) -> float:
        """Seconds from the first to the last."""
        return self.requests[-1].arrival.at if self.requests else 0.0


def read_trace(path: Path, model: str = "") -> Trace:
    """The requests in a file, or in all files of a folder.

    Args:
        model: only those of this one; "" takes all.

    Raises:
        DataError: there are none, or a line is no JSON.
    """
    files = sorted(path.glob("*.jsonl")) if path.is_dir() else [path]
    found, skipped = [], 0
    for file in files:
        for number, line in enumerate(_lines(file), start=1):
            if not line.strip():
                continue
            try:
                row = json.loads(line)
                took = _took(row) if isinstance(row, dict) and model in ("", row.get("model", model)) else None
            except (ValueError, TypeError, KeyError) as cause:
                raise DataError(
                    f"this line is no request of a trace: {cause}",
                    where=f"{file}:{number}",
                    next="a line has at, prompt_tokens and completion_tokens, or is one of an audit log",
                ) from cause
            skipped += took is None
            found += [took] if took else []
    if not found:
        raise DataError(f"no request can be replayed: {skipped} lines were skipped", where=str(path), next="name another model")
    begin = min(each.arrival.at for each in found)
    shifted = [each._replace(arrival=each.arrival._replace(at=each.arrival.at - begin)) for each in found]
    return Trace(tuple(sorted(shifted, key=lambda each: each.arrival.at)), skipped, str(path))


def write_trace(path: Path, arrivals: Iterable[Arrival]) -> None:
    """A file that `read_trace` reads."""
    rows = ({"at": round(each.at, 4), "prompt_tokens": each.prompt, "completion_tokens": each.answer} for each in arrivals)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def _lines(file: Path) -> list[str]:
    try:
        return file.read_text().splitlines()
    except (OSError, UnicodeDecodeError) as cause:
        raise DataError("this trace cannot be read", where=str(file), next="name a file of lines of JSON") from cause


def _took(row: dict[str, Any]) -> Took | None:
    """One line; None where it is of no request that made tokens."""
    prompt, answer = int(row["prompt_tokens"]), int(row["completion_tokens"])
    if prompt < 1 or answer < 1:
        return None
    if "at" in row:
        return Took(Arrival(float(row["at"]), prompt, answer), float(row.get("first_s", 0.0)), float(row.get("seconds", 0.0)))
    # an audit log: its time is that of the end; who left early (499) had asked for more, and is replayed with what was made
    if row["path"] not in MADE or row["status"] not in (200, 499):
        return None
    seconds = float(row["seconds"])
    return Took(
        Arrival(datetime.fromisoformat(row["time"]).timestamp() - seconds, prompt, answer), float(row["first_s"]), seconds
    )
