"""Hang detection: which rank holds up the others and in what operation, and the hang report of the group.

    rank: heartbeat thread --(marks, phase, step)--> mailbox --> driver: stands_still(beats, hang_s)
    found: every rank tells its stacks and open collectives; a silent one is looked at from its host; then all are ended

Open collectives come from torch's flight recorder (TORCH_FR_BUFFER_SIZE), which records gloo and NCCL:
https://docs.pytorch.org/tutorials/prototype/flight_recorder_tutorial.html
"""

from __future__ import annotations

import contextlib
import os
import signal
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

RECORDER = {"TORCH_FR_BUFFER_SIZE": "256"}
"""Environment of every rank: how many collectives torch remembers."""
IDLE = "idle"
DATA = "data"
LOAD = "load"
LOAD_S = 3600.0
"""Seconds that weights may take to be read, in which a rank begins nothing that could be seen."""


class Beat(NamedTuple):
    """The last sign of life of one rank."""

    rank: int
    host: str
    node: str
    pid: int
    marks: int
    """Grows with every phase; equal on ranks that are equally far."""
    phase: str
    step: int
    silent_s: float
    """Seconds since the sign arrived: large when the process is stopped or its host is out of reach."""
    still_s: float
    """Seconds since it began a phase or a collective."""

    def words(self) -> str:
        return f"rank {self.rank} (host {self.host}, pid {self.pid})"


class Hang(NamedTuple):
    """Ranks that hold the others up."""

    kind: str
    """`silent`: no sign of life; `data`: reads rows; `behind`: less far than the others; `collective`: all are equally far."""
    culprits: list[Beat]
    waiting: list[Beat]

    def same(self, other: Hang | None) -> bool:
        """Whether `other` was this hang too: the same kind of trouble at the same step."""
        return other is not None and (self.kind, self.culprits[0].step) == (other.kind, other.culprits[0].step)

    def words(self, told: dict[int, Any]) -> str:
        """One sentence: who, where, in what, and which collective the others wait in."""
        first = self.culprits[0]
        who = ", ".join(beat.words() for beat in self.culprits[:4]) + (" ..." if len(self.culprits) > 4 else "")
        how = {
            "silent": f"gave no sign of life for {first.silent_s:.0f} s, last seen in {first.phase}",
            "data": f"is reading rows for {first.still_s:.0f} s: a data stall, no collective's fault",
            "behind": f"is in {first.phase} for {first.still_s:.0f} s and keeps the others waiting",
            "collective": f"all wait in {first.phase} for {first.still_s:.0f} s",
        }[self.kind]
        open_in = sorted({name for beat in self.waiting or self.culprits for name in told.get(beat.rank, {}).get("waits_in", [])})
        waits = f"; {len(self.waiting) or len(self.culprits)} ranks wait in {', '.join(open_in)}" if open_in else ""
        return f"hang at step {first.step}: {who} {how}{waits}"


def stands_still(beats: list[Beat], hang_s: float) -> bool:
    """Whether no rank that has something to do moved within `hang_s`: in a group that works, all wait for the slowest."""
    busy = [beat for beat in beats if beat.phase != IDLE]
    if any(beat.phase == LOAD and beat.still_s < LOAD_S for beat in busy):
        return False
    return bool(busy) and min(beat.still_s for beat in busy) >= hang_s


def blame(beats: list[Beat], told: dict[int, Any]) -> Hang:
    """Which ranks hold the others up.

    Args:
        told: what ranks said of themselves (`tell`), by rank; one that is missing here, or was only `examine`d, is silent.
    """
    busy = [beat for beat in beats if beat.phase != IDLE]

    def hang(kind: str, culprits: list[Beat]) -> Hang:
        return Hang(kind, culprits, [beat for beat in busy if beat not in culprits])

    # one that stopped before its first sign still counts as idle
    silent = [beat for beat in beats if "waits_in" not in told.get(beat.rank, {})]
    if silent:
        return hang("silent", silent)
    reading = [beat for beat in busy if beat.phase == DATA]
    if reading:
        return hang("data", reading)
    # while others wait in a collective, a rank that is in none has not come to it
    absent = [beat for beat in busy if not told[beat.rank]["waits_in"]]
    if 0 < len(absent) < len(busy):
        return hang("behind", absent)
    least = min(beat.marks for beat in busy)
    behind = [beat for beat in busy if beat.marks == least]
    return hang("behind", behind) if len(behind) < len(busy) else hang("collective", busy)


def hang_report(found: Hang, beats: list[Beat], told: dict[int, Any]) -> str:
    """The whole finding as text: one line per rank, then the collectives and stacks of each."""
    lines = [found.words(told), ""]
    for beat in beats:
        moved = f"no move for {beat.still_s:.0f} s, last sign {beat.silent_s:.0f} s ago"
        lines.append(f"{beat.words()}: step {beat.step}, {beat.phase}, {moved}")
    for beat in beats:
        one = told.get(beat.rank, {"state": "said nothing"})
        lines += [
            "",
            f"== {beat.words()}",
            *(f"{key}: {value}" for key, value in one.items() if key not in ("stacks", "waits_in")),
        ]
        lines += [f"waits in {name}" for name in one.get("waits_in", [])]
        lines.append(str(one.get("stacks", "")))
    return "\n".join(lines) + "\n"


def tell() -> dict[str, Any]:
    """What this process does now: open collectives, the last ones, Python stacks of all its threads."""
    import faulthandler

    with tempfile.TemporaryFile("w+") as file:
        faulthandler.dump_traceback(file, all_threads=True)
        file.seek(0)
        stacks = file.read()
    entries = [entry for dump in _recordings() for entry in dump.get("entries", [])]
    return {
        "waits_in": [_collective(entry) for entry in entries if not entry["retired"]],
        "last collectives": ", ".join(_collective(entry) for entry in entries[-4:]) or "none",
        "stacks": stacks,
    }


def num_collectives() -> int:
    """How many collectives this process has begun: a rank that only waits and meets moves too."""
    states = [state for dump in _recordings(entries=False) for state in dump.get("pg_status", {}).values()]
    return sum(max(0, int(state["last_enqueued_collective"])) for state in states)


def _recordings(entries: bool = True) -> list[dict[str, Any]]:
    import json

    from raylm.model.torch_private import flight_records

    return [json.loads(record or b"{}") for record in flight_records(entries)]


def _collective(entry: dict[str, Any]) -> str:
    name, described = entry["process_group"]
    return f"{entry['profiling_name']} #{entry['collective_seq_id']} of {described or name} {entry['input_sizes']}"


def examine(pid: int, wait_s: float = 1.0) -> dict[str, Any]:
    """What a process of this host that says nothing does, seen from outside; asks it for its stack by SIGUSR1."""
    at = Path(f"/proc/{pid}")
    if not at.exists():
        return {"state": "the process is gone"}
    state = next((line.split(":", 1)[1].strip() for line in (at / "status").read_text().splitlines() if line[:6] == "State:"), "")
    stacks = stack_file(pid)
    if stacks.exists():
        os.kill(pid, signal.SIGUSR1)
        time.sleep(wait_s)
    text = stacks.read_text() if stacks.exists() else ""
    return {"state": f"process state {state}", "stacks": text or "it did not answer SIGUSR1: it is stopped, or in the kernel"}


def end(pid: int) -> None:
    """End a process of this host for good: one that is stopped heeds nothing else."""
    with contextlib.suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)


def answer_signals() -> None:
    """Let SIGUSR1 write the stacks of all threads to `stack_file`, even while one of them holds the interpreter."""
    import faulthandler

    # faulthandler keeps the file open as long as the process lives
    faulthandler.register(signal.SIGUSR1, open(stack_file(os.getpid()), "w"), all_threads=True)  # noqa: SIM115


def stack_file(pid: int) -> Path:
    """Where process `pid` writes its stacks."""
    return Path(tempfile.gettempdir()) / f"raylm-stacks-{pid}.txt"
