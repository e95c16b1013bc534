"""Asynchronous against synchronous RL by raylm's own loop under a heavy-tailed law of generation times: seconds for the same
number of trained samples at equal reward, beside what the law allows at best; how long generation stands still at an update.

    python -m tests.bench.rl_async            the law alone, without processes: six minutes
    python -m tests.bench.rl_async --engine   with a real engine too: the stand-still of an update of a 100 MB model

Generators sleep (their times are drawn from the law), the trainer computes and sleeps; queues, pacing, versions and ledger are
those of a run. The policy is a table of logits that truly learns, so that what staleness costs is in the reward.
"""

from __future__ import annotations

import heapq
import itertools
import json
import math
import statistics
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Hashable
from typing import Any

import numpy as np

from raylm.core.config import digest_of
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.inference.completions import Completion, VersionSpan
from raylm.rl.config import RL
from raylm.rl.loop import Loop
from raylm.rl.sample_ledger import SAMPLES, SampleLedger
from raylm.rl.trainer import Exported
from raylm.rl.types import Experience, Prompt, Rollout, Score, Trajectory

GOAL, OF_BOUND = 2.67, 0.9
MEDIAN_S, SIGMA, CAP = 0.1, math.log(10) / 2.3263, 10.0
"""Lognormal with p99 / p50 = 10, cut at 10 medians as `max_tokens` cuts completions."""
PROMPTS, GROUP, SLOTS = 16, 4, 64
"""Per iteration; sequences that the generators work on at a time."""
UPDATE_S = 2.5 * MEDIAN_S
ITERATIONS, STALENESS, SEEDS = 48, 4, 5
ROWS, LENGTH, VOCABULARY, RATE = 32, 4, 6, 20.0
HIDDEN_LAYERS = 8


def latency(rng: np.random.Generator) -> float:
    """Seconds of one completion."""
    return MEDIAN_S * min(math.exp(SIGMA * rng.standard_normal()), CAP)


class Law:
    """Generators whose times are drawn from the law, and whose tokens are drawn from the policy they hold when they end."""

    def __init__(self, policy: Policy) -> None:
        self._policy, self._held, self._version = policy, policy.logits.copy(), 0
        self._waiting: list[tuple[Hashable, int, int, float]] = []
        self._running: list[tuple[float, int, Hashable, int, int, float]] = []
        self._parts: dict[Hashable, dict[int, Completion]] = {}
        self._numbers, self._lock, self.busy_s = itertools.count(), threading.Condition(), 0.0

    def submit(self, key: Hashable, tokens: list[int], num: int, temperature: float, seed: int, most: int | None) -> None:
        with self._lock:
            self._parts[key] = {}
            for place in range(num):
                draw = np.random.default_rng([seed, place])
                self._waiting.append((key, num, place, latency(draw) if temperature else 0.0))
                self._policy.asked[key] = (tokens[-1], seed, temperature)
            self._fill()

    def wait(self, timeout_s: float) -> list[tuple[Hashable, list[Completion]]]:
        until = time.monotonic() + timeout_s
        while True:
            with self._lock:
                done = self._end()
                next_s = self._running[0][0] if self._running else until
            now = time.monotonic()
            if done or now >= until:
                return done
            time.sleep(max(min(next_s, until) - now, 0.0))

    def cancel(self, key: Hashable) -> None:
        raise AssertionError("nothing is cut here")

    def sync(self, send: Callable[..., Any], version: int) -> None:
        send([], version)
        with self._lock:
            self._held, self._version = self._policy.logits.copy(), version

    def _fill(self) -> None:
        while self._waiting and len(self._running) < SLOTS:
            key, num, place, seconds = self._waiting.pop(0)
            self.busy_s += seconds
            heapq.heappush(self._running, (time.monotonic() + seconds, next(self._numbers), key, num, place, seconds))

    def _end(self) -> list[tuple[Hashable, list[Completion]]]:
        done = []
        while self._running and self._running[0][0] <= time.monotonic():
            _, _, key, num, place, _ = heapq.heappop(self._running)
            self._parts[key][place] = self._draw(key, place)
            if len(self._parts[key]) == num:
                parts = self._parts.pop(key)
                done.append((key, [parts[at] for at in range(num)]))
            self._fill()
        return done

    def _draw(self, key: Hashable, place: int) -> Completion:
        row, seed, temperature = self._policy.asked[key]
        logits = self._held[row]
        logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
        rng = np.random.default_rng([seed, place, 1])
        drawn = logprobs + rng.gumbel(size=logprobs.shape) if temperature else logprobs
        tokens = [int(token) for token in drawn.argmax(-1)]
        spans = (VersionSpan(self._version, 0, LENGTH),)
        return Completion(tokens, [float(logprobs[at, token]) for at, token in enumerate(tokens)], "", "stop", spans)


class Rewards:
    """The share of tokens that are the right ones."""

    def __init__(self) -> None:
        self._done: list[tuple[Hashable, list[Rollout]]] = []

    def submit(self, key: Hashable, prompt: Prompt, trajectories: list[Trajectory]) -> None:
        right = answer(prompt.row)
        shares = [sum(a == b for a, b in zip(one.tokens, right, strict=True)) / LENGTH for one in trajectories]
        self._done.append((key, [Rollout(prompt, one, Score(s, "")) for one, s in zip(trajectories, shares, strict=True)]))

    def poll(self, timeout_s: float) -> list[tuple[Hashable, list[Rollout]]]:
        done, self._done = self._done, []
        return done


def answer(row: int) -> list[int]:
    return [int(digest_of([row, at])[:8], 16) % VOCABULARY for at in range(LENGTH)]


class Policy:
    """Trainer and recorder: a table of logits, moved along the clipped objective's gradient."""

    def __init__(self, cfg: RL) -> None:
        self.cfg = cfg
        self.logits = np.zeros((ROWS, LENGTH, VOCABULARY))
        self.asked: dict[Hashable, tuple[int, int, float]] = {}
        self.rows: list[dict[str, Any]] = []
        self.oldest = self.version = 0

    def rows_at(self, position: int) -> list[int]:
        order = np.random.default_rng([self.cfg.seed, position * PROMPTS // ROWS]).permutation(ROWS)
        return [int(row) for row in order[position * PROMPTS % ROWS :][:PROMPTS]]

    def restore(self) -> dict[str, Any]:
        return {"iteration": 0, "decisions": []}

    def send(self, actors: Any, version: int, averaged: bool = False) -> None:
        return None

    def score(self, experience: Experience, needs: Any) -> Experience:
        scored = []
        for sample in experience.samples:
            logits = self.logits[sample.row]
            logprobs = logits - np.log(np.exp(logits).sum(-1, keepdims=True))
            drawn = [float(logprobs[at, token]) for at, token in enumerate(sample.tokens[sample.num_prompt :])]
            scored.append(sample._replace(trainer_logprobs=drawn))
        return experience._replace(samples=scored)

    def update(self, iteration: int, experience: Experience) -> dict[str, Any]:
        began = time.monotonic()
        gradient = np.zeros_like(self.logits)
        for sample in experience.samples:
            self.oldest = max(self.oldest, self.version - min(span.version for span in sample.versions))
            logits = self.logits[sample.row]
            chances = np.exp(logits) / np.exp(logits).sum(-1, keepdims=True)
            for at, token in enumerate(sample.tokens[sample.num_prompt :]):
                ratio = chances[at, token] / math.exp(sample.logprobs[at])
                advantage = sample.advantages[at]
                if (advantage > 0 and ratio > 1.28) or (advantage < 0 and ratio < 0.8):
                    continue
                gradient[sample.row, at] -= ratio * advantage * chances[at]
                gradient[sample.row, at, token] += ratio * advantage
        self.logits += RATE * gradient / (GROUP * LENGTH)
        self.version += bool(experience.samples)
        time.sleep(max(UPDATE_S - (time.monotonic() - began), 0.0))
        return {"finite": True}

    def reward(self) -> float:
        """Expected, of what it draws now."""
        chances = np.exp(self.logits) / np.exp(self.logits).sum(-1, keepdims=True)
        return float(np.mean([chances[row, at, token] for row in range(ROWS) for at, token in enumerate(answer(row))]))

    def save(self, iteration: int, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        return None

    def export(self) -> Exported:
        return Exported(1, {}, [])

    def row(self, step: int, values: dict[str, Any]) -> None:
        self.rows.append(values)

    def rewind(self, step: int, rollback: bool) -> None:
        return None


def one(seed: int, staleness: int | None) -> dict[str, float]:
    """One run: seconds, samples, reward of the policy it ends with, the oldest sample."""
    table: dict[str, Any] = {} if staleness is None else {"async_rollouts": {"max_staleness": staleness}}
    cfg = RL(
        stage="rl",
        prompts="prompts",
        model="base",
        rewards=[{"kind": "pattern", "pattern": ".*"}],
        iterations=ITERATIONS,
        prompts_per_iteration=PROMPTS,
        algorithm={"kind": "grpo", "num_generations": GROUP},
        held_out_prompts=0,
        save_every=1000,
        seed=seed,
        **table,
    )
    party: Any = Policy(cfg)
    engines: Any = Law(party)
    rewards: Any = Rewards()
    prompts = {row: Prompt(row, [1, row], "[]", None) for row in range(ROWS)}
    with tempfile.TemporaryDirectory() as at:
        ledger = SampleLedger(Folder(f"{at}/work"), Folder(f"{at}/out"))
        began = time.monotonic()
        Loop(cfg, engines, rewards, party, prompts, [], party, ledger).run()
        seconds = time.monotonic() - began
        outcomes = read_parquet(Folder(f"{at}/out"), SAMPLES).column("outcome").to_pylist()
    waited = statistics.mean(row["generate_s"] for row in party.rows)
    found = {"seconds": seconds, "samples": len(outcomes), "reward": party.reward(), "oldest": party.oldest}
    return {**found, "trainer_waited_s": waited}


def bound() -> tuple[float, float]:
    """Seconds of an iteration by the law: of a synchronous one, and of an asynchronous one at best. An asynchronous iteration
    takes as long as its update, or as the generators' slots need for the sequences of one iteration."""
    rng = np.random.default_rng(0)
    times = MEDIAN_S * np.minimum(np.exp(SIGMA * rng.standard_normal((20_000, PROMPTS * GROUP))), CAP)
    assert SLOTS >= PROMPTS * GROUP, "else a synchronous iteration takes several turns of the slots"
    return float(times.max(1).mean()) + UPDATE_S, max(UPDATE_S, float(times.mean()) * PROMPTS * GROUP / SLOTS)


def main() -> None:
    theirs, ours = [], []
    for seed in range(SEEDS):
        theirs.append(one(seed, None))
        ours.append(one(seed, STALENESS))
        print(f"seed {seed}: synchronous {theirs[-1]}, asynchronous {ours[-1]}", flush=True)
    synchronous, asynchronous = bound()
    slow, fast = (statistics.median(run["seconds"] for run in runs) for runs in (theirs, ours))
    # the first iteration has nothing to overlap with, and the last one's update stands alone
    best = synchronous * ITERATIONS / (asynchronous * ITERATIONS + synchronous - UPDATE_S)
    rewards = [statistics.mean(run["reward"] for run in runs) for runs in (theirs, ours)]
    noise = 2 * max(statistics.stdev(run["reward"] for run in runs) for runs in (theirs, ours))
    same = all(run["samples"] == ITERATIONS * PROMPTS * GROUP for run in (*ours, *theirs))
    equal = rewards[1] > rewards[0] - noise and same and max(run["oldest"] for run in ours) <= STALENESS
    engine = stand_still() if "--engine" in sys.argv else {}
    print(f"rewards: {[round(run['reward'], 3) for run in theirs]}, {[round(run['reward'], 3) for run in ours]}")
    print(
        json.dumps(
            {
                "name": "rl_async",
                "peer": "raylm, synchronous",
                "peer_version": "this one",
                "ours": round(fast, 2),
                "theirs": round(slow, 2),
                "unit": f"s for {ITERATIONS * PROMPTS * GROUP} samples, p99 / p50 of a completion 10",
                "ratio": round(slow / fast, 2),
                "goal": GOAL,
                "quality": f"reward {rewards[1]:.3f} against {rewards[0]:.3f} (noise {noise:.3f}, {SEEDS} seeds); oldest sample "
                f"{max(run['oldest'] for run in ours)} versions of at most {STALENESS}",
                "bound": round(best, 2),
                "of_bound": round(slow / fast / best, 3),
                **engine,
                "ok": slow / fast >= GOAL and slow / fast / best >= OF_BOUND and equal and engine.get("still_s", 0.0) <= 0.5,
            }
        )
    )


def stand_still() -> dict[str, float]:
    """Seconds in which no token comes from a real engine around an update of about 100 MB in the middle of its requests: the
    longest of three, and the longest without an update."""
    import torch

    from raylm.core.workers import Workers
    from raylm.inference.completions import Sampling
    from raylm.inference.config import GeneratorSpec
    from raylm.inference.pool import hold_pool
    from raylm.inference.weight_transfer import send_weights
    from tests.model.tiny import tiny_checkpoint

    workers = Workers()
    workers.ensure()
    with tempfile.TemporaryDirectory() as at:
        tiny_checkpoint(at, hidden=512, layers=HIDDEN_LAYERS, max_len=2048)
        pool = hold_pool(workers, GeneratorSpec())
        pool.start(at, max_len=2048, dtype="float32")
        from transformers import AutoModelForCausalLM

        weights = dict(AutoModelForCausalLM.from_pretrained(at).state_dict())
        size = sum(one.numel() * one.element_size() for one in weights.values())

        def send(actors: Any, version: int) -> Any:
            moved = ((name, one + 1e-4 * torch.randn_like(one)) for name, one in weights.items())
            return send_weights(moved, actors, version, 60.0)

        import ray

        ray.get(pool._actors[0].__ray_call__.remote(_record))
        for key in range(4):
            pool.submit(key, [1, 5, 9], Sampling(max_tokens=2000, stop_at_eos=False), key)
        time.sleep(3.0)
        updates, seconds = [], []
        for version in (1, 2, 3):
            began = time.monotonic()
            pool.sync(send, version)
            updates.append((began, time.monotonic()))
            seconds.append(updates[-1][1] - began)
            time.sleep(2.0)
        stamps = ray.get(pool._actors[0].__ray_call__.remote(lambda self: list(self._stamps)))
        for key in range(4):
            pool.cancel(key)
        workers.release()
    gaps = [(first, second - first) for first, second in itertools.pairwise(stamps)]
    around = [max(gap for at, gap in gaps if began - 0.2 <= at <= ended + 0.5) for began, ended in updates]
    calm = [gap for at, gap in gaps if not any(began - 0.2 <= at <= ended + 0.5 for began, ended in updates)]
    return {
        "still_s": round(max(around), 3),
        "still_without_update_s": round(max(calm), 3),
        "update_s": round(max(seconds), 3),
        "model_mb": round(size / 1e6),
    }


def _record(self: Any) -> None:
    """In the generator's process: when tokens came, to 2 ms."""
    self._stamps = []

    def watch() -> None:
        before = -1
        while True:
            states = list(self._engine.output_processor.request_states.values())
            now = sum(state.detokenizer.num_output_tokens() for state in states)
            if now != before:
                before = now
                self._stamps.append(time.monotonic())
            time.sleep(0.002)

    threading.Thread(target=watch, daemon=True).start()


if __name__ == "__main__":
    main()
