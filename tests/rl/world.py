"""A world without processes: generators that draw a token of each request at every look, rewards, and a trainer whose weights are
a digest of all that it ever learned from. What is drawn depends on seed and weights alone."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Hashable
from pathlib import Path
from typing import Any

from raylm.core.config import digest_of
from raylm.core.errors import GroupLost
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.inference.completions import Completion, VersionSpan
from raylm.rl.loop import Loop
from raylm.rl.sample_ledger import SAMPLES, SampleLedger
from raylm.rl.trainer import Exported
from raylm.rl.types import Experience, Prompt, Rollout, Score, Trajectory
from tests.rl.samples import config

NUM_PROMPTS, SLOTS, MOST = 48, 3, 6


def number(*of: Any) -> int:
    """A number that depends on `of` alone."""
    return int(digest_of(list(of))[:8], 16)


class Stopped(Exception):
    """The driver's process ends here."""


class Engines:
    """Generators. A request has 1 to `longest` tokens, most of them few."""

    def __init__(self, world: World, longest: int = 12) -> None:
        self._world, self._longest, self._lock = world, longest, threading.Lock()
        self.running: dict[Hashable, tuple[int, int, list[int]]] = {}
        self._row: dict[Hashable, int] = {}
        self.version = 0
        self.asked: list[Hashable] = []

    def submit(self, key: Hashable, tokens: list[int], num: int, temperature: float, seed: int, most: int | None) -> None:
        with self._lock:
            assert key not in self.asked
            self.asked.append(key)
            self.running[key], self._row[key] = (num, seed, []), tokens[-1]

    def wait(self, timeout_s: float) -> list[tuple[Hashable, list[Completion]]]:
        time.sleep(0.0002)
        with self._lock:
            done = []
            for key, (num, seed, drawn) in list(self.running.items())[:SLOTS]:
                drawn.append(self.version)
                if self._row[key] != self._world.never and len(drawn) >= 1 + number(seed, "length") % (
                    self._longest if number(seed, "slow") % 4 else 3 * self._longest
                ):
                    del self.running[key]
                    done.append((key, [self._completion(seed, place, drawn) for place in range(num)]))
            return done

    def cancel(self, key: Hashable) -> None:
        with self._lock:
            self.running.pop(key, None)

    def sync(self, send: Callable[..., Any], version: int) -> None:
        send([], version)
        with self._lock:
            self.version = version

    def _completion(self, seed: int, place: int, drawn: list[int]) -> Completion:
        starts = [at for at, version in enumerate(drawn) if at == 0 or drawn[at - 1] != version]
        spans = [VersionSpan(drawn[at], at, end) for at, end in zip(starts, [*starts[1:], len(drawn)], strict=True)]
        tokens = [3 + number(seed, place, at, self._world.weights[version]) % 50 for at, version in enumerate(drawn)]
        return Completion(tokens, [-0.5] * len(tokens), "", "length" if len(tokens) > MOST else "stop", tuple(spans))


class Rewards:
    """Every third group scores alike."""

    def __init__(self) -> None:
        self.done: list[tuple[Hashable, list[Rollout]]] = []

    def submit(self, key: Hashable, prompt: Prompt, trajectories: list[Trajectory]) -> None:
        alike = sum(trajectories[0].tokens) % 3 == 0
        self.done.append(
            (key, [Rollout(prompt, one, Score(0.0 if alike else float(place), "")) for place, one in enumerate(trajectories)])
        )

    def poll(self, timeout_s: float) -> list[tuple[Hashable, list[Rollout]]]:
        done, self.done = self.done, []
        return done

    def cancel(self, key: Hashable) -> None:
        self.done = [one for one in self.done if one[0] != key]


class World:
    """The trainer, the recorder, and what lies on the disk.

    Args:
        lost: calls of the trainer, counted over all attempts, in which its ranks die.
        stop: iteration after whose row the driver dies.
        never: a prompt that is never answered.
        sampling: most batches of prompts that an iteration asks.
    """

    def __init__(
        self,
        at: Path,
        lost: tuple[int, ...] = (),
        stop: int | None = None,
        never: int | None = None,
        sampling: int = 0,
        **table: Any,
    ) -> None:
        usual: dict[str, Any] = {"iterations": 6, "prompts_per_iteration": 4, "save_every": 2}
        usual["algorithm"] = {"kind": "grpo", "num_generations": 3, "dynamic_sampling": sampling}
        self.cfg, self._at, self._lost, self.stop, self.never = config(**usual | table), at, lost, stop, never
        self.calls = 0
        self.saved: list[dict[str, Any]] = []
        self.weights: dict[int, str] = {0: "start"}
        self.held = "start"
        self.learned: list[list[Any]] = []
        self.rows: dict[int, dict[str, Any]] = {}
        self.oldest = 0

    engines_of: Callable[[World], Any] = Engines

    def run(self) -> World:
        """One process: from the newest step checkpoint to the end, or until it is stopped."""
        self.engines = self.engines_of(self)
        prompts = {row: Prompt(row, [1, row], "[]", None) for row in range(NUM_PROMPTS)}
        ledger = SampleLedger(Folder(self._at / "work"), Folder(self._at / "out"))
        party: Any = self
        engines: Any = self.engines
        rewards: Any = Rewards()
        self.after = Loop(self.cfg, engines, rewards, party, prompts, [prompts[0]], party, ledger).run()
        self.ledger = read_parquet(Folder(self._at / "out"), SAMPLES).to_pylist()
        return self

    # the trainer

    def rows_at(self, position: int) -> list[int]:
        size = self.cfg.prompts_per_iteration
        numbers = range(position * size, (position + 1) * size)
        return list(dict.fromkeys((at + number(at // NUM_PROMPTS, "order")) % NUM_PROMPTS for at in numbers))

    def _call(self) -> None:
        self.calls += 1
        time.sleep(0.002)
        if self.calls in self._lost:
            raise GroupLost("the ranks died")

    def restore(self) -> dict[str, Any]:
        found = json.loads(json.dumps(self.saved[-1])) if self.saved else {"iteration": 0, "held": "start", "number": 0}
        self.held, self.changes = found["held"], found["number"]
        self.weights[self.changes] = self.held
        self.learned = [each for each in self.learned if each[0] < found["iteration"]]
        return {"decisions": [], **found}

    def send(self, actors: Any, version: int, averaged: bool = False) -> None:
        self._call()
        assert version == self.changes

    def score(self, experience: Experience, needs: Any) -> Experience:
        self._call()
        assert not any(len(sample.advantages) for sample in experience.samples)
        if "trainer_logprobs" not in needs:
            return experience
        return experience._replace(samples=[one._replace(trainer_logprobs=one.logprobs) for one in experience.samples])

    def update(self, iteration: int, experience: Experience) -> dict[str, Any]:
        self._call()
        time.sleep(0.005)
        for sample in experience.samples:
            drawn = [span.version for span in sample.versions]
            self.oldest = max(self.oldest, self.changes - min(drawn))
            assert max(drawn) <= self.changes and len(sample.advantages) == len(sample.logprobs)
        self.learned.append([iteration, [[one.row, one.place, list(one.tokens)] for one in experience.samples]])
        if experience.samples:
            self.changes += 1
            self.held = digest_of([self.held, self.learned[-1]])
            self.weights[self.changes] = self.held
        return {"finite": True, "changed": bool(experience.samples), "optimizer_steps": self.changes}

    def save(self, iteration: int, facts: dict[str, Any], rows: list[dict[str, Any]]) -> None:
        self._call()
        state = {"held": self.held, "number": self.changes, "optimizer_steps": self.changes}
        self.saved.append({**json.loads(json.dumps(facts)), "iteration": iteration, **state})

    def export(self) -> Exported:
        return Exported(1, {}, [])

    # the recorder

    def row(self, step: int, values: dict[str, Any]) -> None:
        self.rows[step] = {name: value for name, value in values.items() if not name.endswith("_s")}
        if self.stop == step:
            self.stop = None
            raise Stopped

    def rewind(self, step: int, rollback: bool) -> None:
        self.rows = {at: row for at, row in self.rows.items() if at < step}
