"""Replays a load that steps up three times (many short prompts, few long ones, short ones again) on a real endpoint and in the
simulator: Ray Serve's controller starts and ends replicas by raylm's policy (tokens), then by target_ongoing_requests (Serve's
own rule, fed with the same loads). Leaves a plot of replicas, queue and first tokens in runs/bench/.

Replicas have the pace of an engine and none in them (`serving/paced.py`), so that two cores are enough; gateway, Control, Serve
and its controller are real. A start takes 7.6 s in all, and delays and `look_back_s` are as much shorter than in a job. The
peer's target is that of six which answers as many such requests in time as ours, or most nearly so, found in the simulator over
five draws: what is left to compare is what that costs. The defaults of `tokens` were chosen on loads of this kind.

    python -m tests.bench.autoscale [--simulate-only]
"""

from __future__ import annotations

import asyncio
import itertools
import json
import os
import random
import socket
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import aiohttp

from raylm.serve.config import Serve
from raylm.serve.scaling import log
from raylm.serve.scaling.ongoing import Ongoing
from raylm.serve.scaling.replay.engine import EngineModel
from raylm.serve.scaling.replay.report import figures, picture, table
from raylm.serve.scaling.replay.simulate import Moment, Replay, Served, Simulator
from raylm.serve.scaling.replay.trace import Arrival
from raylm.serve.scaling.tokens import Tokens

SEED = int(os.environ.get("RAYLM_BENCH_SEED", "1"))
# (seconds, requests per second, tokens of a prompt, tokens of an answer)
PARTS = ((8, 2, 150, 20), (18, 14, 150, 20), (14, 2, 150, 20), (18, 3.2, 700, 20), (14, 2, 150, 20), (18, 14, 150, 20))
ENGINE = EngineModel(
    prefill_tokens_s=2000, step_s=0.02, seq_s=0.001, chunk_tokens=256, kv_tokens=50_000, max_num_seqs=64, cold_start_s=7.6
)
REPLICAS: dict[str, Any] = {"min": 1, "max": 5, "upscale_delay_s": 2, "downscale_delay_s": 8, "most_ongoing": 256}
LOOK_BACK_S, TARGET_TTFT_S, TARGETS, NAME, POLL_S, DRAWS = 8.0, 1.0, (2, 4, 8, 12, 16, 32), "chat", 0.25, 5
PROCESS_S = 3.6
"""Of a start: what Ray takes here to give an actor a process, measured; the paced replica waits for the rest."""
MARGIN = 0.05
"""Part of all requests: less in time by so much counts as equal in one draw."""
OUT = Path("runs/bench")


def trace(seed: int = SEED) -> list[Arrival]:
    """The load: Poisson arrivals, prompts of about the same length."""
    draw, found, begin = random.Random(seed), [], 0.0
    for seconds, rate, prompt, answer in PARTS:
        at = begin
        while (at := at + draw.expovariate(rate)) < begin + seconds:
            found.append(Arrival(at, max(1, int(draw.gauss(prompt, prompt / 5))), answer))
        begin += seconds
    return found


def served(card: Any, replicas: dict[str, Any] | None = None) -> Serve:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    return Serve.model_validate(
        {"model": "m", "model_name": NAME, "port": port, "insecure": True, "replicas": {**(replicas or REPLICAS), "policy": card}}
    )


def simulated(card: Any, arrivals: list[Arrival], name: str) -> Replay:
    bounds = served(card.model_dump()).replicas.bounds
    return Simulator(card, bounds, ENGINE).run(arrivals, name, tail_s=8.0)


def chosen() -> tuple[Ongoing, dict[str, Any]]:
    """The peer's target for such loads, and what ours and all came to: [in time, replica-seconds], means of draws."""
    found: dict[str, list[float]] = {}
    for card in (Tokens(target_ttft_s=TARGET_TTFT_S, look_back_s=LOOK_BACK_S), *(Ongoing(target=each) for each in TARGETS)):
        name = f"{card.target:g}" if isinstance(card, Ongoing) else card.kind
        rows = [figures(simulated(card, trace(seed), name), TARGET_TTFT_S) for seed in range(1, DRAWS + 1)]
        found[name] = [round(sum(row[key] for row in rows) / DRAWS, digits) for key, digits in (("in_time", 4), ("replica_s", 1))]
    ours = found[Tokens().kind]
    peers = {name: row for name, row in found.items() if name != Tokens().kind}
    best = min(peers, key=lambda name: abs(peers[name][0] - ours[0]))
    return Ongoing(target=float(best)), found


class Standing:
    """A real endpoint: Control, a gateway, and paced replicas that Serve scales by `card`."""

    def __init__(self, card: Any, folder: str) -> None:
        from ray import serve

        from raylm.serve import cluster
        from raylm.serve.control import Control, ControlSettings
        from raylm.serve.directory import Orders
        from raylm.serve.gateway import nodes
        from raylm.serve.gateway.settings import GatewaySettings, ModelFacts
        from raylm.serve.reach import CONTROL
        from raylm.serve.scaling.policy import autoscaling
        from tests.bench.serving.paced import Paced

        self.cfg = served(card.model_dump())
        replicas, self.deployment = self.cfg.replicas, cluster.deployment_name(0)
        serve.start(proxy_location="Disabled")
        model = serve.deployment(
            Paced,
            name=self.deployment,
            autoscaling_config=autoscaling(NAME, replicas.policy, replicas.bounds, folder),
            max_ongoing_requests=1000,
            ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=25,
        ).bind(cluster.application_name(self.cfg), {**ENGINE.model_dump(), "cold_start_s": ENGINE.cold_start_s - PROCESS_S}, NAME)
        control = serve.deployment(
            Control, name=CONTROL, num_replicas=1, max_ongoing_requests=10_000, ray_actor_options={"num_cpus": 0},
            graceful_shutdown_timeout_s=0.5,
        )  # fmt: skip
        settings = ControlSettings(orders={NAME: Orders()})
        serve.run_many(
            [serve.RunTarget(control.bind(settings, model), name=cluster.application_name(self.cfg), route_prefix=None)],
            wait_for_applications_running=True,
        )
        facts = ModelFacts(NAME, self.deployment, most_ongoing=replicas.most_ongoing, max_len=100_000)
        gateway = GatewaySettings("127.0.0.1", self.cfg.port, (facts,), application=cluster.application_name(self.cfg))
        import ray

        ray.get(nodes.start(gateway, nodes.here()).listening.remote(), timeout=60)

    def replicas(self) -> dict[str, int]:
        """How many are in each state."""
        from ray import serve

        from raylm.serve import cluster

        return dict(serve.status().applications[cluster.application_name(self.cfg)].deployments[self.deployment].replica_states)

    def end(self) -> None:
        from ray import serve

        from raylm.serve.gateway import nodes

        nodes.end(5.0, self.cfg.port)
        serve.shutdown()


async def load(
    url: str, arrivals: list[Arrival], look: Any, ended: float
) -> tuple[list[Served], list[tuple[float, dict[str, int]]]]:
    """Send each request when it is due, whether others are answered or not; and look at the replicas meanwhile."""
    began, looks = time.monotonic(), []

    async def one(session: aiohttp.ClientSession, each: Arrival) -> Served:
        await asyncio.sleep(max(0.0, began + each.at - time.monotonic()))
        body = {"model": NAME, "prompt": [7] * each.prompt, "max_tokens": each.answer, "stream": True}
        first = None
        async with session.post(url, json=body) as reply:
            if reply.status != 200:
                return Served(each.at, None, None, True)
            async for line in reply.content:
                if first is None and line.startswith(b"data: {"):
                    first = time.monotonic() - began - each.at
        return Served(each.at, first, time.monotonic() - began - each.at)

    async def watch() -> None:
        while time.monotonic() < began + ended:
            looks.append((time.monotonic() - began, await asyncio.to_thread(look)))
            await asyncio.sleep(POLL_S)

    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=aiohttp.ClientTimeout(total=120)) as session:
        watching = asyncio.create_task(watch())
        found = await asyncio.gather(*(one(session, each) for each in arrivals))
        await watching
    return list(found), looks


def real(card: Any, arrivals: list[Arrival], name: str) -> Replay:
    """The load on a real endpoint, as the simulator tells of one."""
    folder = tempfile.mkdtemp(prefix="raylm-scaling-")
    standing = Standing(card, folder)
    try:
        url = f"http://127.0.0.1:{standing.cfg.port}/v1/completions"
        found, looks = asyncio.run(load(url, arrivals, standing.replicas, sum(part[0] for part in PARTS) + 8.0))
    finally:
        standing.end()
    replica_s = 0.0
    for (before, states), (now, _) in itertools.pairwise(looks):
        replica_s += (now - before) * sum(states.values())
    moments = [Moment(at, s.get("RUNNING", 0), s.get("STARTING", 0), 0, 0, 0) for at, s in looks]
    decisions = [line for line in log.read(folder, 10_000) if line["replicas"] != line["before"]] if os.listdir(folder) else []
    return Replay(name, found, moments, decisions, replica_s)


def main(words: list[str]) -> None:
    """Run, print what came out, and the line of JSON."""
    arrivals, tokens = trace(), Tokens(target_ttft_s=TARGET_TTFT_S, look_back_s=LOOK_BACK_S)
    ours = simulated(tokens, arrivals, "tokens, simulated")
    ongoing, tried = chosen()
    peer = f"ongoing {ongoing.target:g}"
    replays = [ours, simulated(ongoing, arrivals, f"{peer}, simulated")]
    if "--simulate-only" not in words:
        import ray

        ray.init(num_cpus=4, include_dashboard=False, log_to_driver=False)
        replays += [real(tokens, arrivals, "tokens, real"), real(ongoing, arrivals, f"{peer}, real")]
    rows = [figures(each, TARGET_TTFT_S) for each in replays]
    print("\n".join(table(rows)))
    OUT.mkdir(parents=True, exist_ok=True)
    (OUT / "autoscale.svg").write_text(picture(replays, TARGET_TTFT_S))
    (OUT / "autoscale.json").write_text(json.dumps({"rows": rows, "decisions": [each.decisions for each in replays]}, indent=1))
    us, them = rows[-2], rows[-1]
    apart = abs(rows[0]["replica_s"] - us["replica_s"]) / us["replica_s"]
    answered = all(not row["refused"] and row["requests"] == len(arrivals) and row["ttft_p99"] for row in rows)
    line = {
        "name": "autoscale",
        "peer": f"Ray Serve's rule, target_ongoing_requests = {ongoing.target:g} (of {len(TARGETS)}, nearest in time)",
        "peer_version": "2.60.0",
        "ours": us["replica_s"],
        "theirs": them["replica_s"],
        "unit": "replica-seconds",
        "ratio": round(them["replica_s"] / us["replica_s"], 3),
        "goal": 1.0,
        "quality": {"all_answered": answered, "in_time": us["in_time"], "in_time_peer": them["in_time"]},
        "ok": bool(answered and us["replica_s"] <= them["replica_s"] and us["in_time"] >= them["in_time"] - MARGIN),
        "decisions": us["ups"] + us["downs"],
        "decisions_peer": them["ups"] + them["downs"],
        "ttft_p90": us["ttft_p90"],
        "ttft_p90_peer": them["ttft_p90"],
        "simulator_apart": round(apart, 3),
        "simulated_in_time_and_replica_s": tried,
        "plot": str(OUT / "autoscale.svg"),
    }
    print(json.dumps(line))


if __name__ == "__main__":
    main(sys.argv[1:])
