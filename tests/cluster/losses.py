"""What a machine of a running job can meet (it dies, its cable is pulled, its disk fills, it is drained), and what that costs:
seconds until raylm says it, until the job works again, and work that is done twice. For long tests and for `cluster_recovery`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from contextlib import suppress

import pyarrow.parquet as pq

from tests.cluster.job_on_hosts import TOKEN, Run

LIMIT_S = 270.0
LOST = ("is lost", "a worker died", "a step checkpoint was written")
"""What raylm says of a machine that is gone, of a rank that died, and of one that was told to go."""
SILENT = ("disk_full",)
"""What need not be said: the job goes on as it was."""


def said(run: Run, seen: int, since: float, words: tuple[str, ...] = LOST) -> float:
    """Seconds until the head's output has one of the words beyond its first `seen` characters."""
    while not any(word in run.log()[seen:] for word in words):
        alive(run, since)
        time.sleep(0.05)
    return time.monotonic() - since


def trained(run: Run, step: int, since: float) -> float:
    """Seconds until a step beyond `step` is made."""
    while run.step() <= step:
        alive(run, since)
        time.sleep(0.1)
    return time.monotonic() - since


def alive(run: Run, since: float) -> None:
    assert run.processes[0].poll() is None, run.log()
    assert time.monotonic() - since < LIMIT_S, run.log()


def kill(run: Run) -> None:
    run.hosts.kill(1)


def pull(run: Run) -> None:
    run.hosts.cable(1, plugged=False)


def fill(run: Run) -> None:
    """Write to the host's own disk until nothing more goes on it."""
    run.hosts.run(1, ["bash", "-c", "cat /dev/zero > /mnt/filler; df /mnt | tail -1"])


def drain(run: Run) -> None:
    """What a cloud's notice, or an autoscaler, does: the machine is to be gone in 30 s. Then it is."""
    words = ["--reason", "DRAIN_NODE_REASON_PREEMPTION", "--reason-message", "spot", "--deadline-remaining-seconds", "30"]
    head = f"{run.hosts.address(0)}:6379"
    code = f"""
from raylm.cluster.watch import machines_at
there = machines_at("http://{run.hosts.address(0)}:8265", "{TOKEN}")
print(next(each.node for each in there if each.address == "{run.hosts.address(1)}" and each.is_alive))
"""
    found = run.hosts.run(0, [sys.executable, "-c", code])
    assert found.returncode == 0, found.stderr
    command = [sys.executable, "-m", "ray.scripts.scripts", "drain-node", "--address", head, "--node-id", found.stdout.strip()]
    told = run.hosts.run(0, [*command, *words], RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=TOKEN)
    assert told.returncode == 0, told.stdout + told.stderr


LOSSES: dict[str, Callable[[Run], None]] = {"host_kill": kill, "cable_pull": pull, "disk_full": fill, "drain": drain}


def mend(run: Run, loss: str) -> None:
    """The machine comes back: booted anew, or its cable is put back, and its Ray, which was given up, has ended itself."""
    if loss == "cable_pull":
        run.hosts.cable(1, plugged=True)
        run.processes[1].wait(90)
    else:
        if loss != "host_kill":
            run.hosts.kill(1)
        run.hosts.boot(1)
    seen = len(run.log())
    run.start([1])
    while "has joined" not in run.log()[seen:]:
        assert run.processes[0].poll() is None, run.log()
        time.sleep(0.2)


def in_prepare(run: Run, loss: str, at: int = 6) -> dict[str, float]:
    """The loss while documents are read; afterwards what was under way on the machine is done."""
    run.until_marks(at, LIMIT_S)
    work = run.folder / "runs" / "hosts" / "corpus" / "_work"
    done, seen, since = run.marks(), len(run.log()), time.monotonic()
    began = {path: path.stat().st_mtime for path in work.glob("*.begun") if path.with_suffix(".json").name not in done}
    LOSSES[loss](run)
    found = {} if loss in SILENT or loss == "drain" else {"said_s": said(run, seen, since)}
    while work.exists() and not all(path.with_suffix(".json").exists() for path in began):
        alive(run, since)
        time.sleep(0.05)
    found["working_s"] = time.monotonic() - since
    again = 0
    for path, first in began.items():
        with suppress(FileNotFoundError):
            again += path.stat().st_mtime > first
    return {**found, "redone_units": again}


def in_train(run: Run, loss: str, at: int = 40) -> dict[str, float]:
    """The loss while a model is trained; afterwards it trains again."""
    run.until_step(at, LIMIT_S)
    seen, since = len(run.log()), time.monotonic()
    LOSSES[loss](run)
    found = {} if loss in SILENT else {"said_s": said(run, seen, since)}
    found["working_s"] = trained(run, run.step(), since)
    if loss == "drain":
        # the notice has run out
        run.hosts.kill(1)
    elif loss == "cable_pull":
        # who was cut off must write nothing when it is back
        run.hosts.cable(1, plugged=True)
    return found


def whole_corpus(run: Run) -> bool:
    """Every document is there once."""
    folder = run.folder / "runs" / "hosts" / "corpus"
    texts = [text for path in sorted(folder.glob("documents-*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]
    return len(texts) == len(run.texts) and set(texts) == run.texts


def whole_training(run: Run, steps: int) -> bool:
    """Every step is there once."""
    return [row["step"] for row in run.rows() if "loss" in row] == list(range(steps))
