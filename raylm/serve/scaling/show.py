"""`raylm scaling`: why an endpoint has as many replicas as it has; and what other policies make of its requests."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from pydantic import Field

from raylm.core import toml
from raylm.core.config import Config, card_kind, resolve
from raylm.core.errors import ArtifactError, DataError
from raylm.core.storage import Folder
from raylm.serve.audit import audit_folder
from raylm.serve.scaling import AnyScaling, log
from raylm.serve.scaling.ongoing import Ongoing
from raylm.serve.scaling.replay import report
from raylm.serve.scaling.replay.calibrate import calibrate, mean_running
from raylm.serve.scaling.replay.engine import EngineModel
from raylm.serve.scaling.replay.simulate import Replay, Simulator
from raylm.serve.scaling.replay.trace import Trace, read_trace
from raylm.serve.scaling.tokens import Tokens
from raylm.serve.served_model import Replicas


class Simulation(Config):
    """What `--set` may name."""

    policies: list[AnyScaling] = [Tokens(), Ongoing()]
    """Cards that the same requests are replayed under."""
    replicas: Replicas = Replicas(min=1, max=8)
    """Bounds and delays, as in a job file; its own policy is not looked at."""
    engine: EngineModel = EngineModel()
    """One replica; what is not said is measured in the audit log."""
    target_ttft_s: float = Field(default=2.0, gt=0)
    """Seconds to the first token that count as in time."""
    hold_s: float = Field(default=60.0, ge=0)
    """Seconds that a request waits for a replica before it is refused."""
    speed: float = Field(default=1.0, gt=0)
    """Times that requests come faster than they did."""


def run(arguments: argparse.Namespace) -> int:
    """`raylm scaling ENDPOINT | TRACE [--simulate]`."""
    if not arguments.simulate:
        folder = Folder(arguments.source)
        lines = log.read(log.scaling_folder(folder), arguments.last)
        lines = [line for line in lines if arguments.model in ("", line["model"])]
        print("\n".join(log.table(lines)))
        print(f"next: raylm scaling {arguments.source} --simulate")
        return 0
    trace, measured, told = _source(arguments.source, arguments.model)
    wanted = toml.override({}, arguments.set)
    engine = wanted.get("engine", {})
    # what is no table is refused in words
    engine = {**measured.model_dump(), **engine} if isinstance(engine, dict) else engine
    cfg = toml.check(Simulation, {**wanted, "engine": engine}, toml.Source("--set", ""))
    print(f"{len(trace.requests)} requests in {trace.span_s:.0f} s ({trace.skipped} lines skipped); engine: {told}")
    print(f"engine = {toml.value_text({name: _rounded(value) for name, value in cfg.engine.model_dump().items()})}")
    replays = simulate(trace, cfg)
    print("\n".join(report.table([report.figures(each, cfg.target_ttft_s) for each in replays])))
    if arguments.plot:
        Path(arguments.plot).write_text(report.picture(replays, cfg.target_ttft_s))
    print(f"next: put the best into replicas.policy{f'; see {arguments.plot}' if arguments.plot else ', or --plot scaling.svg'}")
    return 0


def simulate(trace: Trace, cfg: Simulation) -> list[Replay]:
    """The requests of `trace` under each policy."""
    arrivals = [each._replace(at=each.at / cfg.speed) for each in trace.arrivals]
    bounds, found = cfg.replicas.bounds, []
    for number, named in enumerate(cfg.policies, start=1):
        card: Any = resolve(named)
        name = (
            card_kind(card)
            if [card_kind(each) for each in cfg.policies].count(card_kind(card)) == 1
            else f"{number} {_told(card)}"
        )
        found.append(Simulator(card, bounds, cfg.engine, hold_s=cfg.hold_s).run(arrivals, name))
    return found


def _source(name: str, model: str) -> tuple[Trace, EngineModel, str]:
    """The requests, the engine that they were answered by, and in words where its numbers come from."""
    path, base = Path(name), EngineModel()
    running, kept = 1.0, []
    if not path.is_file():
        folder = Folder(name)
        path = Path(audit_folder(folder))
        if not path.is_dir():
            raise ArtifactError(
                "this endpoint keeps no audit log, so there is nothing to replay",
                where=name,
                next="serve it with `audit = {}`, or name a file of lines with at, prompt_tokens and completion_tokens",
            )
        try:
            kept = [line for line in log.read(log.scaling_folder(folder), 10_000) if model in ("", line["model"])]
        except ArtifactError:
            kept = []
        running = mean_running(kept)
        starts = [line["cold_start_s"] for line in kept if line.get("cold_start_s")]
        base = base.model_copy(update={"cold_start_s": starts[-1]}) if starts else base
    trace = read_trace(path, model)
    try:
        return trace, calibrate(trace, base, running), "as measured in this log; cache, limits and what is said by --set are not"
    except DataError as cause:
        return trace, base, f"NOT measured ({cause.what}), these are assumptions"


def _rounded(value: float) -> float | int:
    return value if isinstance(value, int) else float(f"{value:.4g}")


def _told(card: Any) -> str:
    said = [f"{name}={getattr(card, name)}" for name in sorted(card.model_fields_set - {"kind"})]
    return " ".join([card_kind(card), *said])
