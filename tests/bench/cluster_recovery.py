"""Takes a job on two hosts (network namespaces of this machine) whose machine, cable or head is lost; leaves, for each loss, the
seconds until raylm says it, until it works again, and the steps that are done twice.

Peer: what was measured on such hosts before the settings of `raylm cluster start` (44.6 s until said, 133 s until
learning again). `RAYLM_LOSSES` names the losses, separated by commas; all where it does not.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cluster.hosts import cannot
from tests.cluster.job_on_hosts import Run, running

STEPS, SAVE_EVERY, AT = 300, 20, 50
SAID_GOAL_S = {"host_kill": 5.0, "cable_pull": 15.0, "head_loss": 0.0}
DIED = "has been marked dead"
LIMIT_S = 420.0


def step_of(run: Run) -> int:
    return max((row.get("step", 0) for row in run.rows("sft")), default=0)


def again(run: Run, step: int, since: float) -> float:
    """Seconds until a step beyond `step` is made."""
    while step_of(run) <= step:
        assert run.processes[0].poll() is None and time.monotonic() - since < LIMIT_S, run.log()
        time.sleep(0.1)
    return time.monotonic() - since


def said(run: Run, since: float) -> float:
    while DIED not in run.log() and "a worker died" not in run.log():
        assert run.processes[0].poll() is None and time.monotonic() - since < LIMIT_S, run.log()
        time.sleep(0.05)
    return time.monotonic() - since


def lose_machine(run: Run) -> dict[str, float]:
    run.hosts.kill(1)
    began, at = time.monotonic(), step_of(run)
    return {"said_s": said(run, began), "working_s": again(run, at, began)}


def pull_cable(run: Run) -> dict[str, float]:
    run.hosts.cable(1, plugged=False)
    began, at = time.monotonic(), step_of(run)
    found = {"said_s": said(run, began), "working_s": again(run, at, began)}
    # put back while the run goes on: who was cut off must write nothing
    run.hosts.cable(1, plugged=True)
    return found


def lose_head(run: Run) -> dict[str, float]:
    run.hosts.kill(0)
    run.hosts.kill(1)
    began, at = time.monotonic(), step_of(run)
    for host in (0, 1):
        run.hosts.boot(host)
    run.start()
    return {"said_s": 0.0, "working_s": again(run, at, began)}


LOSSES = {"host_kill": lose_machine, "cable_pull": pull_cable, "head_loss": lose_head}


def measured(name: str) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), 2, steps=STEPS, save_every=SAVE_EVERY) as run:
        run.until_step(AT, LIMIT_S)
        found: dict[str, Any] = LOSSES[name](run)
        status = run.wait(LIMIT_S)
        made = run.manifest("sft") if status == 0 else {"metrics": {}}
        steps = [row["step"] for row in run.rows("sft") if "loss" in row]
    return {
        **{key: round(value, 1) for key, value in found.items()},
        "redone_steps": made["metrics"].get("lost_steps", -1),
        "whole": status == 0 and steps == list(range(STEPS)),
    }


def main() -> None:
    if why := cannot():
        print(json.dumps({"name": "cluster_recovery", "skipped": why, "ok": False}))
        return
    names = os.environ.get("RAYLM_LOSSES", ",".join(LOSSES)).split(",")
    found = {}
    for name in names:
        found[name] = measured(name)
        print(name, found[name], flush=True)
    quality = all(each["whole"] and 0 <= each["redone_steps"] <= SAVE_EVERY for each in found.values())
    worst = max(each["working_s"] for each in found.values())
    timely = all(each["said_s"] <= SAID_GOAL_S[name] + 1.0 for name, each in found.items())
    print(
        json.dumps(
            {
                "name": "cluster_recovery",
                "peer": "the same losses with Ray's default health checks, measured before",
                "peer_version": "ray 2.60",
                "ours": worst,
                "theirs": 133.0,
                "unit": "s until it learns again, worst",
                "ratio": round(133.0 / worst, 2),
                "goal": 1.0,
                "quality": {"no step lost or doubled, at most one save interval redone": quality},
                "ok": quality and timely,
                "save_every": SAVE_EVERY,
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
