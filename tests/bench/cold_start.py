"""Takes a machine on which nothing runs; leaves the seconds until an endpoint answers, by phase, and until a second replica of it
does, which Serve starts because the load asks for it. Beside it: vLLM's own server with the same engine, from its command until
it says that it is healthy, before and after.

`second_s` is counted from the moment in which Serve says that a second replica is starting until gateways may ask it.
"""

from __future__ import annotations

import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from typing import Any

from raylm.core.artifact import Checkpoint
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.inference.engine import CPU_REQUESTS
from raylm.serve import cluster
from tests.bench.serve_faults import ASKED, Standing, context
from tests.bench.serving.steady import Steady
from tests.model.tiny import tiny_checkpoint

GOAL_S, MOST_S, RATE = 10.0, 180.0, 4.0


def bare(model: str) -> float:
    """Seconds until vLLM's own server answers."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_CPU_OMP_THREADS_BIND": "nobind", "TORCHDYNAMO_DISABLE": "1"}
    environment |= {"VLLM_LOGGING_LEVEL": "ERROR", "VLLM_NO_USAGE_STATS": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    options = ["--model", model, "--port", str(port), "--host", "127.0.0.1", "--enforce-eager", "--dtype", "float32"]
    options += ["--max-num-seqs", str(CPU_REQUESTS), "--no-enable-chunked-prefill"]
    began = time.monotonic()
    command = [sys.executable, "-m", "vllm.entrypoints.openai.api_server", *options]
    with subprocess.Popen(command, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as server:
        try:
            while not _healthy(port):
                assert server.poll() is None and time.monotonic() < began + MOST_S, "vLLM's server does not start"
                time.sleep(0.05)
            return time.monotonic() - began
        finally:
            server.terminate()


def _healthy(port: int) -> bool:
    try:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=5) as reply:
            return reply.status == 200
    except (urllib.error.URLError, TimeoutError, ConnectionError):
        return False


def second(standing: Standing) -> float:
    """Load it until Serve starts a second replica; seconds of that."""
    from ray import serve

    def starting() -> bool:
        states = serve.status().applications[standing.application].deployments[cluster.deployment_name(0)].replica_states
        return any("STARTING" in str(state) and count for state, count in states.items())

    with Steady(standing.url, standing.key, {**ASKED, "max_tokens": 200}, RATE):
        until = time.monotonic() + MOST_S
        while not starting():
            assert time.monotonic() < until, "Serve starts no second replica"
            time.sleep(0.02)
        began = time.monotonic()
        while list(standing.rows().values()).count("ready") < 2:
            assert time.monotonic() < until, standing.rows()
            time.sleep(0.02)
        return time.monotonic() - began


def main() -> None:
    """Run, and print the line of JSON."""
    root = Folder(tempfile.mkdtemp(prefix="raylm-cold-"))
    model = str(tiny_checkpoint((root / "sft").uri))
    theirs = [bare(model)]
    workers = Workers(wanted_cpus=4)
    workers.ensure()
    checkpoint = context("sft", root, workers).commit(Checkpoint, facts={"dtype": "float32"})
    scaled: dict[str, Any] = {"min": 1, "max": 2, "upscale_delay_s": 0, "policy": {"kind": "ongoing", "target": 1}}
    standing = Standing(workers, root, checkpoint, 1, scaled)
    facts = standing.facts()
    print("first:", standing.start_s, facts, flush=True)
    second_s = second(standing)
    print("second:", second_s, flush=True)
    workers.release(cluster.HELD)
    workers.stop()
    theirs.append(bare(model))
    peer = statistics.median(theirs)
    line = {
        "name": "cold_start",
        "peer": "vLLM's own server, from its command",
        "peer_version": "0.32.0",
        "ours": round(second_s, 2),
        "theirs": round(peer, 2),
        "unit": "s",
        "ratio": round(peer / second_s, 2),
        "goal": round(peer / GOAL_S, 2),
        "quality": {"ready means that it generated a token and gateways may ask it": True},
        "ok": second_s < GOAL_S,
        "second_s": round(second_s, 2),
        "first_s": standing.start_s,
        "phases": facts["phases"],
    }
    print(json.dumps(line))


if __name__ == "__main__":
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    main()
