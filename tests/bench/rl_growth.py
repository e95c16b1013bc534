"""How an RL iteration grows from 8 to 4,096 GPUs: seconds by role, where the idle goes, best split of generators and trainer.

Measured here: what the driver does for each completion (records, advantages, metrics, Parquet, what is sent to ranks and asked of
generators). Forecast: engines and trainer, by the models of `raylm plan`. Simulated: every completion of all generators, of a
heavy-tailed law of lengths, for iterations that wait for each other and for those that overlap with bounded staleness.
"""

from __future__ import annotations

import heapq
import json
import pickle
import random
import statistics
import tempfile
import time
from typing import Any, NamedTuple

GPUS = (8, 64, 512, 4096)
GROUP, PROMPT, MEDIAN, MOST = 8, 512, 1024, 8192
PER_GPU = 32
"""Completions of an iteration per GPU: the batch grows with the cluster."""
SIGMA = 0.99
"""Of a lognormal law of lengths whose 99th percentile is 10 times its median: exp(2.326 sigma)."""
SHARES = (1 / 8, 1 / 4, 3 / 8, 1 / 2, 5 / 8, 3 / 4, 7 / 8)
STALENESS = (0, 1, 4)
ITERATIONS = 10
L8 = {
    "model_type": "llama", "hidden_size": 4096, "num_hidden_layers": 32, "num_attention_heads": 32, "num_key_value_heads": 8,
    "intermediate_size": 14_336, "vocab_size": 128_256,
}  # fmt: skip


class Driver(NamedTuple):
    """Seconds of the driver per completion, measured here."""

    learn_s: float
    """Records, advantages, metrics, and what is pickled for the ranks: the trainer waits for it."""
    keep_s: float
    """Parquet, in a thread beside."""
    ask_s: float
    """One call of a generator's actor, answered; a prompt has one."""


class Simulated(NamedTuple):
    """Seconds of one iteration, mean of several."""

    iteration_s: float
    generate_s: float
    """At work, mean over generators."""
    update_s: float
    driver_s: float
    sync_s: float
    tokens: float
    """Of completions."""


def driver() -> Driver:
    """What 512 completions of 1,024 tokens cost, per completion; medians of five. In CPU seconds, which other work on the machine
    does not lengthen, but for the calls of actors."""
    import ray

    from raylm.core.storage import Folder
    from raylm.inference.completions import VersionSpan
    from raylm.rl.algorithms.grpo import Grpo
    from raylm.rl.iterations import reward_metrics
    from raylm.rl.rollout_files import table_of
    from raylm.rl.rollout_metrics import experience_metrics
    from raylm.rl.types import Prompt, Rollout, Score, Trajectory, experience_of, packed

    draw, count, length = random.Random(0), 512, 1024
    rollouts = []
    for at in range(count):
        prompt = Prompt(at // GROUP, [draw.randrange(128_000) for _ in range(PROMPT)], "[]", "1", source="sums")
        tokens = [draw.randrange(128_000) for _ in range(length)]
        logprobs = [-draw.random() for _ in tokens]
        drawn = Trajectory(tokens, logprobs, "x" * 4 * length, "stop", (VersionSpan(1, 0, length),))
        value = Score(draw.random(), "")
        rollouts.append(Rollout(prompt, drawn, value, parts={"math": value}))
    learn, keep = [], []
    folder = Folder(tempfile.mkdtemp(prefix="raylm-bench-"))
    for _ in range(5):
        started = time.process_time()
        experience = Grpo(num_generations=GROUP).advantages(experience_of(rollouts, list(range(count // GROUP)), 0))
        reward_metrics(rollouts)
        experience_metrics(rollouts, experience, 1)
        pickle.loads(pickle.dumps(packed(experience), 5))
        learn.append(time.process_time() - started)
        started = time.process_time()
        import pyarrow.parquet as pq

        with folder.writing("0.parquet") as path:
            pq.write_table(table_of(0, rollouts, experience, 1), path, compression="zstd")
        keep.append(time.process_time() - started)
    folder.remove()
    ray.init(num_cpus=2, include_dashboard=False, log_to_driver=False, logging_level="ERROR")
    ask = _ask_s(ray, rollouts[0].prompt.tokens, rollouts[0].trajectory)
    ray.shutdown()
    return Driver(statistics.median(learn) / count, statistics.median(keep) / count, ask / GROUP)


def _ask_s(ray: Any, tokens: list[int], answer: Any) -> float:
    """Seconds of a call that brings a prompt's tokens and takes its group of completions."""

    class Echo:
        async def generate(self, tokens: list[int]) -> list[Any]:
            return [answer] * GROUP

    actor = ray.remote(Echo).options(num_cpus=0).remote()
    ray.get(actor.generate.remote(tokens))
    found = []
    for _ in range(3):
        started = time.perf_counter()
        ray.get([actor.generate.remote(tokens) for _ in range(200)])
        found.append((time.perf_counter() - started) / 200)
    return statistics.median(found)


def lengths(draw: random.Random, count: int) -> list[int]:
    return [min(MOST, max(1, round(MEDIAN * draw.lognormvariate(0.0, SIGMA)))) for _ in range(count)]


class Cluster(NamedTuple):
    """A split of GPUs, and what its parts do in a second."""

    generators: int
    slots: int
    """Sequences that one generator has under way."""
    token_s: float
    """Seconds between two tokens of a sequence that is alone in its generator."""
    load_s: float
    """Seconds more with all slots taken, for the keys and values of the others."""
    prefill_s: float
    """Of a group's prompt."""
    update_s: float
    sync_s: float


def cluster(gpus: int, share: float) -> Cluster | None:
    """What `raylm plan` forecasts for a part of the GPUs that generate; None where the rest cannot train."""
    from raylm.rl.config import RL
    from raylm.trainer.forecast.devices import device_of
    from raylm.trainer.forecast.generation import READ, STEP_S, engine_memory, generation_of
    from raylm.trainer.forecast.speed import LINK
    from raylm.trainer.forecast.suggest import FULL, layout_of

    device, generators = device_of("h100"), max(1, round(gpus * share))
    ranks, batch, mean = gpus - generators, gpus * PER_GPU, PROMPT + 1.5 * MEDIAN
    memory = engine_memory(L8, device, 0.85, 2)
    # replicas of 8 ranks share weights; between them gradients alone travel
    replicas = max(1, ranks // 64)
    table = {"stage": "rl", "prompts": "p", "model": "m", "rewards": [{"kind": "pattern", "pattern": "x"}], "iterations": 1}
    table |= {"dtype": "bfloat16", "activation_checkpointing": "selective", "mesh": {"replicas": replicas}}
    if ranks < 1 or ranks % replicas:
        return None
    cfg = RL.model_validate(table | {"workers": {"count": ranks, "gpus": 1, "device": "h100"}})
    made = layout_of(cfg, L8, device, length=round(mean), batch=batch, micro=4, world=ranks)
    if made.memory.total > FULL * device.memory_gb * 1e9:
        return None
    slots = min(memory.sequences(round(mean)), max(1, batch // generators))
    cached = slots * (PROMPT + 0.75 * MEDIAN) * memory.per_token
    bandwidth = device.memory_gb_s * 1e9 * READ
    size = {"prompt_length": PROMPT, "completion_length": 1}
    prefill = generation_of(L8, device, memory, prompts=1, each=1, **size).prefill_s
    sync_s = memory.weights / (device.inter_gb_s * 1e9 * LINK)
    token_s, load_s = STEP_S + memory.weights / bandwidth, cached / bandwidth
    return Cluster(generators, slots, token_s, load_s, prefill, made.speed.step_s, sync_s)


def simulate(one: Cluster, costs: Driver, batch: int, staleness: int, seed: int = 0) -> Simulated:
    """Iterations one after the other, or generation that runs ahead by `staleness` updates.

    Every completion takes a free slot, in order; those of iteration i may begin once update i - 1 - staleness is there. All that
    are under way go on at one pace, which depends on how many they are: the heap holds the token at which each ends. The driver
    asks, learns and sends between generation and update; new weights stop generation for `sync_s`.
    """
    draw, slots = random.Random(seed), one.generators * one.slots
    waiting = [(iteration, length) for iteration in range(ITERATIONS) for length in lengths(draw, batch)]
    waiting.reverse()
    owed, updates, updated = [batch] * ITERATIONS, list[float](), [0.0]
    running: list[tuple[float, int]] = []
    now, at, busy, free, total = 0.0, 0.0, 0.0, 0.0, sum(length for iteration, length in waiting if iteration)
    driver_s = batch * (costs.learn_s + costs.ask_s)
    extra = one.prefill_s / GROUP / (one.token_s + one.load_s)
    while len(updated) <= ITERATIONS:
        while waiting and len(running) < slots and waiting[-1][0] < len(updated) + staleness:
            iteration, length = waiting.pop()
            heapq.heappush(running, (at + length + extra, iteration))
        pace = one.token_s + one.load_s * len(running) / slots
        ends = now + (running[0][0] - at) * pace if running else float("inf")
        if updates and updates[0] <= ends:
            at += (updates[0] - now) / pace if running else 0.0
            busy += (updates[0] - now) * len(running) if len(updated) > 1 else 0.0
            now = updates.pop(0)
            updated.append(now)
            now += one.sync_s
            continue
        busy += (ends - now) * len(running) if len(updated) > 1 else 0.0
        now, (at, iteration) = ends, heapq.heappop(running)
        owed[iteration] -= 1
        # iterations are learned from in their order
        while len(updated) + len(updates) <= ITERATIONS and not owed[len(updated) + len(updates) - 1]:
            before = updates[-1] if updates else updated[-1]
            free = max(now, free) + driver_s  # one driver does it for one iteration after the other
            updates.append(max(free, before + one.sync_s) + one.update_s)
    steps = ITERATIONS - 1
    seconds = (updated[-1] - updated[1]) / steps
    return Simulated(seconds, busy / steps / slots, one.update_s, driver_s, one.sync_s, total / steps)


def best(gpus: int, costs: Driver, staleness: int) -> dict[str, Any]:
    """The fastest split, and where its time goes."""
    found = []
    for share in SHARES:
        one = cluster(gpus, share)
        if one:
            found.append((simulate(one, costs, gpus * PER_GPU, staleness), one))
    made, one = min(found, key=lambda each: each[0].iteration_s)
    ranks = gpus - one.generators
    idle = {
        "generators": 1 - (made.generate_s + made.sync_s) / made.iteration_s,
        "trainer": 1 - (made.update_s + made.sync_s) / made.iteration_s,
    }
    return {
        "generators": one.generators,
        "ranks": ranks,
        "seconds": {name: round(value, 2) for name, value in made._asdict().items() if name.endswith("_s")},
        "idle": {name: round(value, 3) for name, value in idle.items()},
        "idle of all GPUs": round((idle["generators"] * one.generators + idle["trainer"] * ranks) / gpus, 3),
        "tokens/s per GPU": round(made.tokens / made.iteration_s / gpus, 1),
    }


def checked(costs: Driver) -> dict[str, float]:
    """The simulation against what can be worked out: equal lengths without a driver, and one slot for all."""
    free, one = Driver(0.0, 0.0, 0.0), Cluster(2, 4, token_s=0.01, load_s=0.0, prefill_s=0.0, update_s=3.0, sync_s=0.5)
    global lengths
    kept, lengths = lengths, lambda draw, count: [100] * count
    try:
        # 16 completions in 8 slots: two rounds of a second; then 3.5 s. Ahead by one, the longer of both
        apart, ahead = simulate(one, free, 16, 0).iteration_s, simulate(one, free, 16, 1).iteration_s
        # of half of the slots each token takes half of the load's share
        loaded = simulate(one._replace(load_s=0.02), free, 4, 0).iteration_s
    finally:
        lengths = kept
    worked = {"apart": (apart, 2.0 + 3.5), "ahead": (ahead, 3.5), "loaded": (loaded, 2.0 + 3.5)}
    draw = random.Random(1)
    found = sorted(lengths(draw, 20_000))
    wrong = max(abs(is_ / due - 1) for is_, due in worked.values())
    return {"wrong": wrong, "p99 over median": found[19_800] / found[10_000]}


def main() -> None:
    costs = driver()
    print(f"driver, per completion of 1,024 tokens: {costs}", flush=True)
    proof = checked(costs)
    rows: dict[str, dict[int, Any]] = {f"staleness {staleness}": {} for staleness in STALENESS}
    for gpus in GPUS:
        for staleness, name in zip(STALENESS, rows, strict=True):
            rows[name][gpus] = best(gpus, costs, staleness)
            print(f"{gpus} GPUs, {name}: {rows[name][gpus]}", flush=True)
    last = f"staleness {STALENESS[-1]}"
    ends = [rows[last][gpus]["tokens/s per GPU"] for gpus in (GPUS[0], GPUS[-1])]
    print(
        json.dumps(
            {
                "name": "rl_growth",
                "peer": "itself on 8 GPUs",
                "peer_version": "",
                "ours": ends[1],
                "theirs": ends[0],
                "unit": "tokens/s per GPU in simulation, 8 B on H100s, staleness 4, 4,096 GPUs and 8",
                "ratio": round(ends[1] / ends[0], 3),
                "goal": 0.5,
                "driver_us_per_completion": {name: round(value * 1e6, 1) for name, value in costs._asdict().items()},
                "simulated": rows,
                "quality": {
                    "simulation against hand-worked iterations": proof["wrong"],
                    "p99 over median": round(proof["p99 over median"], 2),
                },
                "ok": proof["wrong"] < 1e-9 and ends[1] / ends[0] >= 0.5,
            }
        )
    )


if __name__ == "__main__":
    main()
