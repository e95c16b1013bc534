"""Profiles chosen steps and ranks, and summarizes the traces. Runs on ranks.

traces open in https://ui.perfetto.dev; the words say how much of the steps is compute, communication, and neither,
and how far memory rose
"""

from __future__ import annotations

import json
import tempfile
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from raylm.core.config import Config
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder

FOLDER = "profile"
TOP = 12
# how operations that wait for other ranks are called, in gloo's, NCCL's and torch's own names
EXCHANGE = ("gloo:", "nccl", "c10d", "all_reduce", "all_gather", "reduce_scatter", "all_to_all", "broadcast", "barrier")


class Profile(Config):
    """torch.profiler on chosen steps; the rest of the run is not slowed down."""

    steps: tuple[int, int]
    """First and last step that are looked at."""
    ranks: list[int] = [0]
    """Ranks that are looked at."""
    memory: bool = True
    """Also what memory is taken by which operations."""
    top: int = Field(default=TOP, gt=0)
    """Operations that the summary names."""

    @field_validator("steps")
    @classmethod
    def _in_order(cls, steps: tuple[int, int]) -> tuple[int, int]:
        if not 0 <= steps[0] <= steps[1]:
            raise ValueError("steps are [first, last]")
        return steps


def check_profile(asked: Profile | None, steps: int, world: int) -> None:
    """Raises ConfigError when what is to be profiled would never come: a trace is written after its last step."""
    if asked and (asked.steps[1] >= steps or max(asked.ranks, default=0) >= world):
        raise ConfigError(
            f"steps {asked.steps[0]} to {asked.steps[1]} of ranks {asked.ranks} are to be profiled",
            where="watch.profile",
            next=f"name steps below {steps} and ranks below {world}",
        )


class Profiler:
    """Watches one rank.

    Args:
        out: the artifact's folder.
    """

    def __init__(self, cfg: Profile | None, rank: int, device: str, out: Folder) -> None:
        self._cfg = cfg if cfg and rank in cfg.ranks else None
        self._rank, self._device, self._out = rank, device, out
        self._profiler: Any = None

    @contextmanager
    def step(self, number: int) -> Iterator[None]:
        """One step of training; what it does is recorded when that was asked for."""
        if self._cfg is None or not self._cfg.steps[0] <= number <= self._cfg.steps[1]:
            yield
            return
        if self._profiler is None:
            self._start()
        yield
        if number == self._cfg.steps[1]:
            self._stop(self._cfg)

    def _start(self) -> None:
        from torch.profiler import ProfilerActivity, profile

        kinds = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if self._device == "cuda" else [])]
        assert self._cfg is not None
        self._profiler = profile(activities=kinds, profile_memory=self._cfg.memory, record_shapes=True)
        self._profiler.start()

    def _stop(self, cfg: Profile) -> None:
        self._profiler.stop()
        name = f"{FOLDER}/rank-{self._rank:05d}"
        with tempfile.TemporaryDirectory() as at:
            trace = Path(at) / "trace.json"
            self._profiler.export_chrome_trace(str(trace))
            events = json.loads(trace.read_text())["traceEvents"]
            with self._out.writing(f"{name}.json") as target:
                target.write_bytes(trace.read_bytes())
        spent = [
            (event.key, event.self_device_time_total if self._device == "cuda" else event.self_cpu_time_total, event.count,
             max(event.self_cpu_memory_usage, event.self_device_memory_usage))
            for event in self._profiler.key_averages()
        ]  # fmt: skip
        self._out.write(f"{name}.md", summary(events, spent, cfg, self._rank, self._device))
        self._profiler = None


def summary(events: list[dict[str, Any]], spent: list[tuple[str, float, int, int]], cfg: Profile, rank: int, device: str) -> str:
    """What was recorded, in words.

    Args:
        events: of the trace; `ts` and `dur` in microseconds.
        spent: operations as (name, microseconds of their own, calls, bytes that they took).
    """
    shares = shares_of(events, device)
    total = sum(microseconds for _, microseconds, _, _ in spent) or 1.0
    lines = [
        f"# Steps {cfg.steps[0]} to {cfg.steps[1]} on rank {rank} ({device})",
        "",
        f"{shares['seconds']:.3f} s: compute {shares['compute']:.0%}, communication {shares['communication']:.0%} "
        f"({shares['exposed']:.0%} of the time nothing else ran), idle {shares['idle']:.0%}. {_verdict(shares)}",
        "",
        "| operation | share | calls | ms |",
        "|---|---|---|---|",
    ]
    for name, microseconds, calls, _ in sorted(spent, key=lambda one: -one[1])[: cfg.top]:
        lines.append(f"| {name} | {microseconds / total:.1%} | {calls} | {microseconds / 1e3:.1f} |")
    peaks = peaks_of(events)
    if peaks:
        lines += ["", "Memory peaked at " + ", ".join(f"{_size(peak)} on {where}" for where, peak in peaks.items()) + "."]
        if "cpu" in peaks:
            lines[-1] += " What the host held before these steps is not part of it."
    takers = [one for one in sorted(spent, key=lambda one: -one[3]) if one[3] > 0][: cfg.top // 2]
    if takers:
        lines += ["", "Over all calls memory was taken by " + ", ".join(f"{one[0]} ({_size(one[3])})" for one in takers) + "."]
    return "\n".join(lines) + "\n"


def shares_of(events: list[dict[str, Any]], device: str) -> dict[str, float]:
    """Shares of the time that compute, communication and neither of them take, as the trace's spans overlap.

    On GPUs the kernels count, on CPUs the operators and gloo's work. Compute, exposed and idle sum to 1; communication is
    exposed and what compute hides of it.
    """
    spans = _spans(events, ("kernel", "gpu_memcpy", "gpu_memset")) if device == "cuda" else _host_spans(events)
    if not spans:
        return {"seconds": 0.0, "compute": 0.0, "communication": 0.0, "exposed": 0.0, "idle": 0.0}
    first, last = min(span[0] for span in spans), max(span[1] for span in spans)
    whole = (last - first) or 1.0
    compute = _covered([(a, b) for a, b, exchange in spans if not exchange])
    exchange = _covered([(a, b) for a, b, one in spans if one])
    both = _covered([(a, b) for a, b, _ in spans])
    return {
        "seconds": whole / 1e6,
        "compute": compute / whole,
        "communication": exchange / whole,
        "exposed": (both - compute) / whole,
        "idle": 1 - both / whole,
    }


def peaks_of(events: list[dict[str, Any]]) -> dict[str, int]:
    """The most bytes that each device held at once, by device; empty where memory was not looked at."""
    peaks: dict[str, int] = {}
    for held in (event["args"] for event in events if event.get("name") == "[memory]"):
        # torch's number of the kind of device; 0 is the host
        where = f"cuda:{held['Device Id']}" if held["Device Type"] else "cpu"
        peaks[where] = max(peaks.get(where, 0), held["Total Allocated"])
    return peaks


def _spans(events: list[dict[str, Any]], kinds: tuple[str, ...]) -> list[tuple[float, float, bool]]:
    """Spans of some kinds as (start, end, whether ranks exchange)."""
    return [(e["ts"], e["ts"] + e["dur"], _is_exchange(e["name"])) for e in events if e.get("cat") in kinds and "dur" in e]


def _host_spans(events: list[dict[str, Any]]) -> list[tuple[float, float, bool]]:
    """Operators, and gloo's work, which its own threads do and write down as annotations.

    An operator that calls an exchange (autograd's around FSDP's) waits within it and is left out: the operators that it
    calls stand for what it computes.
    """
    operators = [event for event in events if event.get("cat") == "cpu_op" and "dur" in event]
    calls: dict[Any, list[tuple[float, float]]] = defaultdict(list)
    for event in sorted(operators, key=lambda event: event["ts"]):
        if _is_exchange(event["name"]):
            calls[event.get("tid")].append((event["ts"], event["ts"] + event["dur"]))

    def waits(event: dict[str, Any]) -> bool:
        # a thread's spans nest: the first exchange that starts no earlier ends within the operator, or none does
        mine = calls[event.get("tid")]
        at = bisect_left(mine, (event["ts"],))
        return at < len(mine) and mine[at][1] <= event["ts"] + event["dur"]

    kept = [event for event in operators if _is_exchange(event["name"]) or not waits(event)]
    gloo = [event for event in events if event.get("cat") == "user_annotation" and event["name"].startswith("gloo:")]
    return _spans([*kept, *gloo], ("cpu_op", "user_annotation"))


def _is_exchange(name: str) -> bool:
    return any(word in name.lower() for word in EXCHANGE)


def _covered(spans: list[tuple[float, float]]) -> float:
    """Length of the union of spans."""
    total, end = 0.0, float("-inf")
    for a, b in sorted(spans):
        total += max(0.0, b - max(a, end))
        end = max(end, b)
    return total


def _size(size: int) -> str:
    return f"{size / 1e9:.2f} GB" if size >= 1e9 else f"{size / 1e6:.1f} MB"


def _verdict(shares: dict[str, float]) -> str:
    if shares["idle"] > 0.3:
        return "Much of the time nothing runs: are rows late, or does the host wait for the device?"
    if shares["exposed"] > 0.2:
        return "Ranks wait for each other: is one late? Else larger micro batches, or fewer pieces per weight, hide more of it."
    return "Compute fills the step."
