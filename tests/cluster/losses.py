"""What a machine of a running job can meet (it dies, its cable is pulled, its disk fills, it is drained), and what that costs:
seconds until raylm says it, until the job works again, and work that is done twice. For long tests and for `cluster_recovery`."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable

import pyarrow.parquet as pq

from tests.cluster.job_on_hosts import TOKEN, Run

LIMIT_S = 200.0
LOST = ("is lost", "a worker died", "is drained", "is to leave", "was asked to leave")


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
    """The machine comes back: booted anew, or its cable is put back."""
    if loss == "cable_pull":
        run.hosts.cable(1, plugged=True)
        # Ray there ends by itself, for its cluster has given it up
        run.processes[1].wait(90)
    elif loss != "host_kill":
        run.hosts.kill(1)
    if loss != "cable_pull":
        run.hosts.boot(1)
    run.start([1])
    run.until("has joined", 90)


def in_prepare(run: Run, loss: str, at: int = 6) -> dict[str, float]:
    """The loss while documents are read; afterwards the machine is back."""
    run.until_marks(at, LIMIT_S)
    work = run.folder / "runs" / "hosts" / "corpus" / "_work"
    done, seen = run.marks(), len(run.log())
    began = {path.name: path.stat().st_mtime for path in work.glob("*.begun")}
    since = time.monotonic()
    LOSSES[loss](run)
    in_flight = {name for name in began if name.replace(".begun", ".json") not in done}
    found = {"said_s": said(run, seen, since)} if loss != "disk_full" else {}
    # what was under way when it was lost is done: by whoever is left
    while not all((work / name.replace(".begun", ".json")).exists() for name in in_flight) and work.exists():
        alive(run, since)
        time.sleep(0.05)
    found["working_s"] = time.monotonic() - since
    again = [
        name for name in in_flight if work.exists() and (work / name).exists() and (work / name).stat().st_mtime > began[name]
    ]
    return {**found, "redone_units": len(again)}


def in_train(run: Run, loss: str, at: int = 40) -> dict[str, float]:
    """The loss while a model is trained."""
    run.until_step(at, LIMIT_S)
    seen, since = len(run.log()), time.monotonic()
    step = run.step()
    LOSSES[loss](run)
    if loss == "disk_full":
        time.sleep(5)
        return {"working_s": trained(run, run.step(), time.monotonic())}
    found = {"said_s": said(run, seen, since)}
    step = max(step, run.step())
    return {**found, "working_s": trained(run, step, since)}


def whole_corpus(run: Run) -> bool:
    """Every document is there once."""
    folder = run.folder / "runs" / "hosts" / "corpus"
    texts = [text for path in sorted(folder.glob("documents-*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]
    return len(texts) == len(run.texts) and set(texts) == run.texts


def whole_training(run: Run, steps: int) -> bool:
    """Every step is there once."""
    return [row["step"] for row in run.rows() if "loss" in row] == list(range(steps))
