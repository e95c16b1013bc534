"""Takes one job (prepare, tokenize, train on three ranks) on one host, on two and on three (network namespaces of this machine),
leaves what distribution costs each stage: CPU seconds of all hosts, seconds, and bytes over the hosts' cables.

The same machine carries all of them: CPU seconds can be compared, seconds say little. `RAYLM_HOSTS` names the numbers of hosts.
"""

from __future__ import annotations

import json
import os
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.cluster.hosts import Hosts, cannot
from tests.cluster.job_on_hosts import Run

COUNTS = tuple(int(count) for count in os.environ.get("RAYLM_HOSTS", "1,2,3").split(","))
STAGES = ("corpus", "questions", "dialogues", "sft")
VERBS = {"corpus": "prepare", "questions": "prepare", "dialogues": "tokenize", "sft": "train"}
STEPS, FILES = 40, 6
LIMIT_S = 280.0


def measured(count: int) -> dict[str, Any]:
    """CPU seconds, bytes and seconds of each verb on so many hosts, and what the job made."""
    with tempfile.TemporaryDirectory() as folder, Hosts(count, Path(folder)) as hosts:
        run = Run(hosts, Path(folder), files=FILES, steps=STEPS, save_every=20, batch=48, ranks=3, cpus=0.5)
        run.start()
        run.until("Running entrypoint", LIMIT_S)
        idle = time.monotonic(), hosts.cpu_s()
        found = {"cpu_s": {}, "moved_mb": {}, "s": {}}
        before = idle[1], hosts.moved_bytes(), time.monotonic()
        for stage in STAGES:
            while not (Path(folder) / "runs" / "hosts" / stage / "manifest.json").exists():
                assert run.processes[0].poll() is None, run.log()
                time.sleep(0.1)
            now = hosts.cpu_s(), hosts.moved_bytes(), time.monotonic()
            for key, at in (("cpu_s", 0), ("moved_mb", 1), ("s", 2)):
                spent = (now[at] - before[at]) / (1e6 if key == "moved_mb" else 1)
                found[key][VERBS[stage]] = round(found[key].get(VERBS[stage], 0.0) + spent, 2)
            before = now
        assert run.wait(60) == 0, run.log()
        payload = {stage: sorted(file["digest"] for file in run.manifest(stage)["files"] if file["rows"]) for stage in STAGES[:3]}
        losses = [row["loss"] for row in run.rows() if "loss" in row]
    return {**found, "payload": payload, "losses": losses}


def main() -> None:
    if why := cannot():
        print(json.dumps({"name": "cluster_overhead", "skipped": why, "ok": False}))
        return
    found = {}
    for count in COUNTS:
        found[count] = measured(count)
        print(count, {key: found[count][key] for key in ("cpu_s", "moved_mb", "s")}, flush=True)
    one, most = found[COUNTS[0]], found[COUNTS[-1]]
    same = all(each["payload"] == one["payload"] for each in found.values())
    drift = max(abs(a - b) for each in found.values() for a, b in zip(each["losses"], one["losses"], strict=True))
    spent = {count: sum(each["cpu_s"].values()) for count, each in found.items()}
    ratio = spent[COUNTS[0]] / spent[COUNTS[-1]]
    quality = {"the same documents and rows": same, "losses apart by at most": round(drift, 6)}
    print(
        json.dumps(
            {
                "name": "cluster_overhead",
                "peer": f"the same job on {COUNTS[0]} host",
                "peer_version": "raylm",
                "ours": round(spent[COUNTS[-1]], 1),
                "theirs": round(spent[COUNTS[0]], 1),
                "unit": f"CPU s on {COUNTS[-1]} hosts",
                "ratio": round(ratio, 3),
                "goal": 0.5,
                "quality": quality,
                "ok": same and drift < 1e-3 and ratio >= 0.5,
                **{f"hosts_{count}": {key: each[key] for key in ("cpu_s", "moved_mb", "s")} for count, each in found.items()},
                "moved_mb_per_step": round(most["moved_mb"].get("train", 0.0) / STEPS, 3),
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
