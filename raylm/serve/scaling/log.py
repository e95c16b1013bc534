"""Why there are as many replicas as there are: a line of JSON for each decision.

{job}/.scaling/{stage}/2026-01-31.jsonl   (a file per day; a bucket's endpoint has none)
"""

from __future__ import annotations

import json
import logging
import os
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.serve.scaling.decide import Decision
from raylm.serve.scaling.observed import Observed

SCALING = ".scaling"
QUIET_S = 10.0
"""Least seconds between two lines that change nothing."""


def scaling_folder(endpoint: Folder) -> str:
    """Where the decisions on the endpoint in `endpoint` are kept; "" where that is no disk."""
    job, _, stage = endpoint.uri.rstrip("/").rpartition("/")
    return str(Path(job) / SCALING / stage) if endpoint.is_local else ""


def entry(model: str, observed: Observed, decision: Decision) -> dict[str, Any]:
    """A decision as it is kept, with what it was made from. `replicas` and `before` are spares included."""
    known, flow = observed.known, decision.state.flow
    late = [load.ttft_s for load in known if load.ttft_s is not None]
    return {
        "model": model,
        "replicas": decision.replicas,
        "before": observed.target,
        "running": observed.running,
        "unknown": observed.running - len(known),
        "needed": round(decision.needed, 3),
        "kind": decision.kind,
        "reason": decision.reason,
        "ongoing": observed.ongoing,
        "held": observed.held,
        "queued_tokens": observed.queued_tokens,
        "arriving_s": round(flow.arriving_s(), 1),
        "ttft_s": round(max(late), 3) if late else None,
        "kv_use": round(sum(load.kv_use or 0.0 for load in known), 3),
        "capacity": round(flow.capacity, 1) if flow.capacity else None,
        "cold_start_s": round(decision.state.cold_start_s, 1) if decision.state.cold_start_s is not None else None,
    }


class ScalingLog:
    """Writes decisions that change something, and every `QUIET_S` one that says why nothing changes, when that is another why."""

    def __init__(self, folder: str) -> None:
        self._folder, self._kind, self._written_s = folder, "", float("-inf")

    def write(self, line: dict[str, Any], now_s: float) -> None:
        """One decision. A disk that takes nothing costs the line, and is said in Serve's log."""
        changes = line["replicas"] != line["before"]
        if not changes and (line["kind"] == self._kind or now_s - self._written_s < QUIET_S):
            return
        self._kind, self._written_s = line["kind"], now_s
        log = logging.getLogger("ray.serve")
        if changes:
            log.info("%s: %s -> %s replicas, %s", line["model"], line["before"], line["replicas"], line["reason"])
        if not self._folder:
            return
        now = datetime.now(UTC)
        try:
            os.makedirs(self._folder, exist_ok=True)
            with open(os.path.join(self._folder, f"{now.date()}.jsonl"), "a") as file:
                file.write(json.dumps({"time": now.isoformat(timespec="milliseconds"), **line}) + "\n")
        except OSError as cause:
            log.error("the log of scaling decisions cannot be written: %s", cause.strerror)


def read(folder: str, last: int = 50) -> list[dict[str, Any]]:
    """The last decisions, the newest last. Raises ArtifactError where there are none."""
    found: list[dict[str, Any]] = []
    for path in sorted(Path(folder).glob("*.jsonl"), reverse=True) if folder else []:
        lines = [json.loads(line) for line in path.read_text().splitlines() if line.endswith("}")]
        found = [*lines, *found]
        if len(found) >= last:
            break
    if not found:
        raise ArtifactError(
            "no scaling decision is kept for this endpoint",
            where=folder or "a bucket",
            next="decisions are kept while it serves, where replicas.max is above replicas.min",
        )
    return found[-last:]


def last_of(folder: str, model: str) -> dict[str, Any]:
    """The last line of a model; empty where there is none, or none that can be read: it was a help, and is not needed."""
    try:
        return next((line for line in reversed(read(folder, 200)) if line.get("model") == model), {})
    except (ArtifactError, OSError, ValueError):
        return {}


def table(lines: list[dict[str, Any]]) -> list[str]:
    """Decisions for people."""
    shown = []
    for line in lines:
        arrow = f"{line['before']} -> {line['replicas']}" if line["replicas"] != line["before"] else f"{line['replicas']}"
        shown.append(f"{line['time'][:19].replace('T', ' ')}  {line['model']}  {arrow:<8} {line['kind']:<12} {line['reason']}")
    return shown
