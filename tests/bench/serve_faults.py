"""Takes an endpoint under a steady load, and kills or stops one part of it at a time; leaves what its clients felt of it.

For each fault and number of replicas: `unready_s`, from the fault until gateways were told (None: nobody had to be); `failed`,
requests that were not answered whole; `recovery_s`, until as many replicas as before answer, or a client whose gateway died gets
an answer; `stall_s`, the longest that one answer stood still, from the time that its request was due. Every whole answer must be
the one that an undisturbed engine gives: greedy tokens of one prompt, also where another replica went on with it.

Ray Serve LLM's figures are cited (measured on this kind of machine with Ray 2.60 and the same vLLM: its engine killed with one
replica failed 283 requests, the first success came after 62.8 s; an update stalled for 49 s).

    python -m tests.bench.serve_faults [fault_replicas ...]
"""

from __future__ import annotations

import asyncio
import contextlib
import json
import os
import signal
import socket
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from raylm.core.artifact import Checkpoint
from raylm.core.context import Context
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.serve import cluster, stage
from raylm.serve.config import Serve
from raylm.serve.directory import View
from raylm.serve.reach import Reach
from tests.bench.serving.steady import Steady
from tests.model.tiny import tiny_checkpoint

RATE, TOKENS, BEFORE_S, AFTER_S, MOST_S, HANG_S = 4.0, 48, 4.0, 3.0, 60.0, 5.0
PEER = {"failed": 283, "recovery_s": 62.8, "stall_s": 49.0}
FAULTS = ("engine_kill", "server_kill", "replica_kill", "engine_hang", "gateway_kill", "weight_swap")
CASES = (*(f"{fault}_{count}" for count in (2, 1) for fault in FAULTS if (fault, count) != ("gateway_kill", 2)),)
ASKED: dict[str, Any] = {"model": "raylm", "prompt": [5, 6, 7, 8], "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True}


class Standing:
    """An endpoint of `count` replicas of a tiny model, with keys on."""

    def __init__(
        self, workers: Workers, root: Folder, checkpoint: Checkpoint, count: int, scaled: dict[str, Any] | None = None
    ) -> None:
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            port = probe.getsockname()[1]
        settings: dict[str, Any] = {"replicas": scaled or {"min": count, "max": count}, "engine": {"hang_s": HANG_S}}
        settings["workers"] = {"cpus": 0.5}
        cfg = Serve(model="sft", port=port, compare_up_to_gb=0, **settings)
        self.application = cluster.application_name(cfg)
        made = stage.run(cfg, context("serve", root, workers, sft=checkpoint.folder))
        self.url, self.key, self.count = made.facts["url"], stage.endpoint_key(made), count
        self.start_s = made.facts["start_s"]
        self._loop = asyncio.new_event_loop()
        threading.Thread(target=self._loop.run_forever, daemon=True).start()
        self.standing(MOST_S)

    def control(self, method: str, *args: Any) -> Any:
        """What Control answers."""

        async def asked() -> Any:
            return await getattr(Reach(self.application), method).remote(*args)

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(30)

    def facts(self) -> dict[str, Any]:
        """What a replica says of its start."""

        async def asked() -> Any:
            from ray import serve

            return await serve.get_deployment_handle(cluster.deployment_name(0), self.application).facts.remote()

        return asyncio.run_coroutine_threadsafe(asked(), self._loop).result(30)

    def rows(self) -> dict[str, str]:
        """State of each replica, by name and port."""
        view: View = self.control("view")
        return {f"{each.address.replica}:{each.address.port}": each.state for each in view.replicas}

    def standing(self, seconds: float) -> None:
        """Wait until all answer."""
        until = time.monotonic() + seconds
        while list(self.rows().values()).count("ready") < self.count:
            assert time.monotonic() < until, self.rows()
            time.sleep(0.05)


def processes(name: str) -> list[Any]:
    """Processes of this run's Ray whose command line begins with `name`, the oldest first. Others' are not touched."""
    import psutil
    import ray

    session, found = ray.get_runtime_context().get_session_name(), []
    for process in psutil.process_iter(["cmdline"]):
        if " ".join(process.info["cmdline"] or []).startswith(name):
            with contextlib.suppress(psutil.Error):
                if any(session in " ".join(parent.cmdline()) for parent in process.parents()):
                    found.append(process)
    return sorted(found, key=lambda each: each.create_time())


def cores() -> list[Any]:
    """Engine cores, the oldest first: what a server forked that a zygote forked; all three have the zygote's command line."""
    import psutil
    import ray

    session, found = ray.get_runtime_context().get_session_name(), []
    for process in psutil.process_iter(["cmdline"]):
        line = process.info["cmdline"] or []
        if "raylm.inference.zygote" in line:
            with contextlib.suppress(psutil.Error):
                forks = [parent for parent in process.parents() if parent.cmdline() == line]
                if len(forks) == 2 and session in " ".join(psutil.Process(int(line[4])).cmdline()):
                    found.append(process)
    return sorted(found, key=lambda each: each.create_time())


def strike(fault: str, standing: Standing, other: str) -> None:
    """Do it."""
    if fault == "engine_kill":
        cores()[0].send_signal(signal.SIGKILL)
    elif fault == "engine_hang":
        cores()[0].send_signal(signal.SIGSTOP)
    elif fault == "server_kill":
        cores()[0].parent().send_signal(signal.SIGKILL)
    elif fault == "replica_kill":
        processes(f"ray::ServeReplica:{standing.application}:model")[0].send_signal(signal.SIGKILL)
    elif fault == "gateway_kill":
        processes("ray::GatewayActor")[0].send_signal(signal.SIGKILL)
    else:
        swap(standing, other)


def swap(standing: Standing, other: str) -> None:
    """Order other weights of the same model, in place: the same file, so that answers stay comparable."""
    from raylm.serve.directory import WeightsOrder

    fingerprint = f"beef{time.monotonic_ns():x}"
    standing.control("order_weights", "raylm", WeightsOrder(other, fingerprint, (), True))
    until = time.monotonic() + MOST_S
    while {each.address.fingerprint for each in standing.control("view").replicas} != {fingerprint}:
        assert time.monotonic() < until
        time.sleep(0.02)


def measured(standing: Standing, fault: str, other: str) -> dict[str, Any]:
    """One fault under load."""
    # a replica that an earlier fault ended may still be known, and is no news
    before = [name for name, state in standing.rows().items() if state == "ready"]
    unready_s = recovery_s = None
    with Steady(standing.url, standing.key, ASKED, RATE) as load:
        time.sleep(BEFORE_S)
        began = time.monotonic()
        strike(fault, standing, other)
        while time.monotonic() < began + MOST_S:
            try:
                rows, now = standing.rows(), time.monotonic() - began
            except TimeoutError:
                continue
            ready = [name for name, state in rows.items() if state == "ready"]
            if unready_s is None and any(name not in ready for name in before):
                unready_s = now
            if fault in ("gateway_kill", "weight_swap"):
                recovery_s = now
                break
            if unready_s is not None and len(ready) >= standing.count:
                recovery_s = now
                break
            time.sleep(0.01)
        time.sleep(AFTER_S)
    failed = [each for each in load.answers if each.failed]
    whole = {each.text for each in load.answers if not each.failed}
    stalls = [max(each.waits) for each in load.answers if each.end > began]
    if fault == "gateway_kill":
        recovery_s = min(each.times[0] for each in load.answers if each.times and each.due > began + 0.05) - began
    usual = statistics.median(each.end - each.due for each in load.answers if each.end < began and not each.failed)
    return {
        "unready_s": None if fault in ("gateway_kill", "weight_swap") or unready_s is None else round(unready_s, 3),
        "failed": len(failed),
        "recovery_s": None if recovery_s is None else round(recovery_s, 2),
        "stall_s": round(max(stalls), 3),
        "requests": len(load.answers),
        "usual_s": round(usual, 3),
        "client_late_s": round(load.late_s, 3),
        "answers": len(whole),
        "why": sorted({each.failed for each in failed})[:4],
    }


def context(name: str, root: Folder, workers: Workers, **stages: Any) -> Context:
    settings: dict[str, Any] = {"config": {}, "identity": {}, "inputs": [], "fingerprint": "0123456789abcdef"}
    return Context(stage=name, out=root / name, stages=stages, workers=workers, **settings)


def main(cases: list[str], told: Callable[[str], None] = print) -> None:
    """Run the cases and print the line of JSON."""
    found: dict[str, dict[str, Any]] = {}
    root = Folder(tempfile.mkdtemp(prefix="raylm-faults-"))
    workers = Workers(wanted_cpus=4)
    workers.ensure()
    made = tiny_checkpoint((root / "sft").uri)
    checkpoint = context("sft", root, workers).commit(Checkpoint, facts={"dtype": "float32"})
    for count in (2, 1):
        chosen = [case.rpartition("_")[0] for case in cases if case.endswith(f"_{count}")]
        if not chosen:
            continue
        standing = Standing(workers, root, checkpoint, count)
        for fault in chosen:
            found[f"{fault}_{count}"] = measured(standing, fault, str(Path(made)))
            told(f"{fault}, {count} replicas: {found[f'{fault}_{count}']}")
            standing.standing(2 * MOST_S)
        workers.release(cluster.HELD)
    workers.stop()
    with_spare = [each["failed"] for name, each in found.items() if name.endswith("_2")]
    known = [each["unready_s"] for name, each in found.items() if each["unready_s"] is not None and "hang" not in name]
    quality = all(each["answers"] == 1 for each in found.values())
    worst = max((each["recovery_s"] or MOST_S for name, each in found.items() if name == "engine_kill_1"), default=None)
    ok = quality and not any(with_spare) and all(seconds < 1.0 for seconds in known)
    line = {
        "name": "serve_faults",
        "peer": "Ray Serve LLM (cited: engine killed, one replica)",
        "peer_version": "2.60.0",
        "ours": worst,
        "theirs": PEER["recovery_s"],
        "unit": "s",
        "ratio": round(PEER["recovery_s"] / worst, 2) if worst else None,
        "goal": 1.0,
        "quality": {"every whole answer is that of an undisturbed engine": quality, "failed with two replicas": sum(with_spare)},
        "ok": ok,
        "peer_failed": PEER["failed"],
        "peer_stall_s": PEER["stall_s"],
        **found,
    }
    print(json.dumps(line))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main(sys.argv[1:] or list(CASES))
