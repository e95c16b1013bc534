"""What a machine of a running job can meet (it dies, its cable is pulled, its disk fills, it is drained), and what that costs:
seconds until raylm says it, until the job works again, and work that is done twice. For long tests and for `cluster_recovery`."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import pyarrow.parquet as pq

from tests.cluster.job_on_hosts import ENDPOINT, POLICY, TOKEN, Run, asked

LIMIT_S = 270.0
LOST = ("is lost", "a worker died", "a step checkpoint was written")
"""What raylm says of a machine that is gone, of a rank that died, and of one that was told to go."""
SILENT = ("disk_full",)
"""What need not be said: the job goes on as it was."""
STEPS, SAVE_EVERY, ITERATIONS, FILES = 200, 20, 24, 24
KEY = "key-of-the-endpoint"
SIZES: dict[str, dict[str, Any]] = {
    "prepare": {"files": FILES},
    "train": {"steps": STEPS, "save_every": SAVE_EVERY, "batch": 48},
    "rl": {"more": POLICY, "iterations": ITERATIONS, "fewest": ", least = 1"},
    "serve": {"more": ENDPOINT, "model": "sft", "stay": True, "variables": {"RAYLM_API_KEY": KEY}},
}
"""Of a job that is long enough in the phase in which something is lost."""


def said(run: Run, seen: int, since: float, words: tuple[str, ...] = LOST) -> float:
    """Seconds until the head's output has one of the words beyond its first `seen` characters."""
    while not any(word in run.log()[seen:] for word in words):
        alive(run, since)
        time.sleep(0.05)
    return time.monotonic() - since


def trained(run: Run, step: int, since: float, stage: str = "sft") -> float:
    """Seconds until a step, or an iteration, beyond `step` is made."""
    while run.step(stage) <= step:
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


def in_train(run: Run, loss: str, at: int = 40, stage: str = "sft") -> dict[str, float]:
    """The loss while a model is trained; afterwards it trains again."""
    run.until_step(at, LIMIT_S, stage)
    seen, since = len(run.log()), time.monotonic()
    LOSSES[loss](run)
    found = {} if loss in SILENT else {"said_s": said(run, seen, since)}
    found["working_s"] = trained(run, run.step(stage), since, stage)
    if loss == "drain":
        # the notice has run out
        run.hosts.kill(1)
    elif loss == "cable_pull":
        # who was cut off must write nothing when it is back
        run.hosts.cable(1, plugged=True)
    return found


def in_rl(run: Run, loss: str) -> dict[str, float]:
    """The loss between two iterations of reinforcement learning."""
    return in_train(run, loss, at=4, stage="policy")


def in_serve(run: Run, loss: str) -> dict[str, float]:
    """The loss while a client asks the other machine; afterwards the lost one comes back and answers too."""
    run.until("serves until this process is told to end", 2 * LIMIT_S)
    answers = run.folder / "answers"
    url = f"http://{run.hosts.address(0)}:8000"
    client = run.hosts.start(0, [sys.executable, "-m", "tests.cluster.asking", url, KEY, "60"], answers)
    while answers.read_text().count("\n") < 20:
        assert client.poll() is None, answers.read_text()
        time.sleep(0.1)
    seen, since, lost_at = len(run.log()), time.monotonic(), time.time()
    LOSSES[loss](run)
    found = {"said_s": said(run, seen, since)}
    mend(run, loss)
    back = time.monotonic()
    while "served" not in asked(run.hosts, 1, KEY):
        alive(run, since)
        time.sleep(0.5)
    found["back_s"] = time.monotonic() - back
    client.wait(90)
    rows = [json.loads(line) for line in answers.read_text().splitlines()]
    found["working_s"] = next(row["ended"] for row in rows if row["began"] > lost_at and "served" in row) - lost_at
    waits = [row["ended"] - row["began"] for row in rows]
    return {**found, "answers": len(rows), "failed": sum("error" in row for row in rows), "longest_s": max(waits)}


def lose_head(run: Run, phase: str) -> dict[str, float]:
    """All machines are gone; they are booted, and the same command is given again."""
    stage = {"train": "sft", "rl": "policy"}.get(phase, "")
    if phase == "serve":
        run.until("serves until this process is told to end", 2 * LIMIT_S)
    elif stage:
        run.until_step(40 if phase == "train" else 4, LIMIT_S, stage)
    else:
        run.until_marks(6, LIMIT_S)
    for host in range(run.hosts.count):
        run.hosts.kill(host)
    since, at, done = time.monotonic(), run.step(stage) if stage else 0, len(run.marks())
    for host in range(run.hosts.count):
        run.hosts.boot(host)
    run.start()
    if phase == "serve":
        while "served" not in asked(run.hosts, 0, KEY):
            alive(run, since)
            time.sleep(0.5)
    elif stage:
        trained(run, at, since, stage)
    else:
        run.until_marks(done + 1, LIMIT_S)
    return {"working_s": time.monotonic() - since}


IN: dict[str, Callable[[Run, str], dict[str, float]]] = {
    "prepare": in_prepare,
    "train": in_train,
    "rl": in_rl,
    "serve": in_serve,
}


def whole(run: Run, phase: str, found: dict[str, float]) -> bool:
    """Whether every document, step, or prompt is there once, or every question was answered."""
    if phase == "serve":
        return not found.get("failed")
    if phase == "rl":
        return whole_policy(run, ITERATIONS)
    return whole_corpus(run) if phase == "prepare" else whole_training(run, STEPS)


def whole_corpus(run: Run) -> bool:
    """Every document is there once."""
    folder = run.folder / "runs" / "hosts" / "corpus"
    texts = [text for path in sorted(folder.glob("documents-*.parquet")) for text in pq.read_table(path)["text"].to_pylist()]
    return len(texts) == len(run.texts) and set(texts) == run.texts


def whole_training(run: Run, steps: int) -> bool:
    """Every step is there once."""
    return [row["step"] for row in run.rows() if "loss" in row] == list(range(steps))


def whole_policy(run: Run, iterations: int) -> bool:
    """Every iteration is there once, and every one of its prompts with each of its four answers."""
    samples = pq.read_table(run.folder / "runs" / "hosts" / "policy" / "samples.parquet").to_pylist()
    places = sorted((each["iteration"], each["position"], each["sample"]) for each in samples)
    asked_once = len({(each["position"], each["row"], each["sample"]) for each in samples}) == len(samples)
    steps = [row["step"] for row in run.rows("policy") if "reward" in row]
    once = [(at, at, place) for at in range(iterations) for place in range(4) for _ in range(6)]
    return places == once and asked_once and steps == list(range(iterations))
