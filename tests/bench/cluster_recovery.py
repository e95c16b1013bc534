"""Takes a job on two hosts (network namespaces of this machine), of which one is killed, cut off, drained or filled while
documents are read, a model is trained, by examples or by rewards, and an endpoint is asked, or both are lost; leaves, for each
loss and phase, the seconds until raylm says it, until it works again, and the work that is done twice.

Peer: what was measured on such hosts before the settings of `raylm cluster start` (44.6 s until said, 133 s until
learning again). `RAYLM_LOSSES` names what is done, `loss:phase` separated by commas; all where it does not.
"""

from __future__ import annotations

import json
import os
import tempfile
from pathlib import Path
from typing import Any

from tests.cluster import losses
from tests.cluster.hosts import cannot
from tests.cluster.job_on_hosts import running

SAID_GOAL_S = {"host_kill": 7.0, "cable_pull": 17.0, "drain": 30.0}
"""Health checks of `raylm cluster start` know a dead machine after 5 s and a pulled cable after 15 s; it looks every 2 s."""
BEFORE = {"said_s": 44.6, "working_s": 133.0}
ALL = [
    *(f"{loss}:{phase}" for phase in ("prepare", "train") for loss in (*losses.LOSSES, "head_loss")),
    *(f"{loss}:{phase}" for phase in ("rl", "serve") for loss in ("host_kill", "cable_pull", "head_loss")),
]


def measured(loss: str, phase: str) -> dict[str, Any]:
    """One loss; whether every document, step, prompt or answer is there once."""
    disk_mb = 2000 if loss == "disk_full" else 0
    with tempfile.TemporaryDirectory() as folder, running(Path(folder), 2, disk_mb, **losses.SIZES[phase]) as run:
        found: dict[str, Any] = losses.lose_head(run, phase) if loss == "head_loss" else losses.IN[phase](run, loss)
        if phase == "serve":
            return {**_rounded(found), "whole": losses.whole(run, phase, found)}
        if loss in ("host_kill", "cable_pull") and phase == "prepare":
            losses.mend(run, loss)
        status = run.wait(2 * losses.LIMIT_S)
        whole = status == 0 and losses.whole(run, phase, found)
        if status == 0 and phase in ("train", "rl"):
            found["redone_steps"] = run.manifest("sft" if phase == "train" else "policy")["metrics"]["lost_steps"]
    return {**_rounded(found), "whole": whole}


def _rounded(found: dict[str, Any]) -> dict[str, Any]:
    return {**{key: round(value, 1) for key, value in found.items()}, "load": round(os.getloadavg()[0], 1)}


def main() -> None:
    if why := cannot():
        print(json.dumps({"name": "cluster_recovery", "skipped": why, "ok": False}))
        return
    found: dict[str, dict[str, Any]] = {}
    for name in os.environ.get("RAYLM_LOSSES", ",".join(ALL)).split(","):
        found[name] = measured(*name.split(":"))
        print(name, found[name], flush=True)
    quality = all(each["whole"] and each.get("redone_steps", 0) <= losses.SAVE_EVERY for each in found.values())
    late = [name for name, each in found.items() if each.get("said_s", 0.0) > SAID_GOAL_S.get(name.split(":")[0], 70.0)]
    worst = max(each["working_s"] for each in found.values())
    print(
        json.dumps(
            {
                "name": "cluster_recovery",
                "peer": "a killed machine with Ray's default health checks, measured before",
                "peer_version": "ray 2.60",
                "ours": worst,
                "theirs": BEFORE["working_s"],
                "unit": "s until it works again, worst",
                "ratio": round(BEFORE["working_s"] / worst, 2),
                "goal": 1.0,
                "quality": {"no document, step, prompt or answer lost or doubled, at most one save interval redone": quality},
                "ok": quality and not late,
                "late": late,
                "save_every": losses.SAVE_EVERY,
                **found,
            }
        )
    )


if __name__ == "__main__":
    main()
