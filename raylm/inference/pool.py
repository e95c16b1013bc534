"""Generators side by side: requests are spread over them, and one that is lost is replaced and what it owed is asked again.

    pool.generate(prompts) -> generators 0..n-1, one request per prompt -> completions, in the order of the prompts
    pool.sync(send, version) -> every generator holds the weights that `send` brings

Completions depend on prompt, seed and weights alone, hence not on the number of generators nor on which of them are lost.
"""

from __future__ import annotations

import sys
from collections import Counter, deque
from collections.abc import Callable
from typing import Any

from raylm.core.errors import PlacementError
from raylm.core.workers import Workers
from raylm.inference.calls import GeneratorLost, answer_of
from raylm.inference.completions import Completion, Sampling
from raylm.inference.config import MEMORY_SHARE, GeneratorSpec
from raylm.inference.engine_dtype import EngineDtype
from raylm.inference.generator import Generator, OtherNetwork
from raylm.inference.weight_transfer import Sent

PART = "generator"
"""What keys of held generators begin with, and their part in a reservation."""
START_S = 3600.0
"""Least seconds that an engine is given to start: to fetch weights, load and compile them. Its end is known at once."""
PING_S = 30.0
"""Seconds in which a generator whose requests do not come back must say that it lives."""
MOST_SEQUENCES = 512
"""Completions that one generator is asked for at a time: two batches of an engine."""
MOST_LOST = 3
"""Times that the generator of one place is lost, without a whole batch of completions in between, before the run ends."""

Send = Callable[[list[Any], int], Sent]
"""Brings weights to generators, given their handles and the version: `send_weights`, in the process that has the weights."""


class Pool:
    """Generators of one size, held from stage to stage by `hold_pool`.

    Args:
        make: starts the actor of one place.
    """

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        self._make, self._actors = make, [make(place) for place in range(count)]
        self._start: dict[str, Any] = {}
        self._send: tuple[Send, int] | None = None
        self._lost = Counter[int]()
        self.memory_share = MEMORY_SHARE
        """Part of a GPU's memory that each engine takes."""
        self.hang_s = 600.0
        """Seconds without a sign of life, of a request or of a part of the weights, after which a generator is replaced."""
        self.dtype = EngineDtype("auto", "")
        """What the engines compute in, and why."""

    def start(self, path: str, max_len: int, dtype: str = "auto", seed: int = 0) -> None:
        """Let all generators hold the checkpoint at `path`: the held ones where they can take it, fresh ones else.

        Raises:
            GeneratorLost: a fresh one died, or did not start in time.
            RaylmError: the checkpoint cannot be held.
        """
        self._start = {"model_path": path, "max_len": max_len, "dtype": dtype, "seed": seed, "memory_share": self.memory_share}
        self._send = None
        self._lost.clear()
        refused: list[int] = []
        started = [actor.start.remote(**self._start) for actor in self._actors]
        for place, reference in enumerate(started):
            try:
                self._answered(reference)
            except (OtherNetwork, GeneratorLost):
                # one that was held from an earlier stage may have died since
                refused.append(place)
        for place in refused:
            self._renew(place)
        for reference in [self._actors[place].start.remote(**self._start) for place in refused]:
            self._answered(reference)

    def generate(self, prompts: list[list[int]], sampling: Sampling, seeds: list[int] | None = None) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt of token ids.

        Args:
            seeds: one per prompt; sampling.seed + its place when they are not given.

        Raises:
            PlacementError: generators were lost again and again.
            RaylmError: what a generator raised, or the sender of weights for a fresh one.
        """
        import ray

        seeds = seeds if seeds is not None else [sampling.seed + index for index in range(len(prompts))]
        owed, found = deque(range(len(prompts))), dict[int, list[Completion]]()
        running: dict[Any, tuple[int, int]] = {}
        try:
            while owed or running:
                for place in self._free(running, len(owed), max(1, MOST_SEQUENCES // sampling.n)):
                    index = owed.popleft()
                    asked = self._actors[place].generate.remote(prompts[index], sampling, seeds[index], self.hang_s)
                    running[asked] = (place, index)
                done, _ = ray.wait(list(running), timeout=self.hang_s)
                lost = self._collect(done, running, found) if done else self._silent({place for place, _ in running.values()})
                for place, cause in lost.items():
                    owed.extendleft(index for at, index in running.values() if at == place)
                    running = {asked: one for asked, one in running.items() if one[0] != place}
                    self._replace(place, cause)
        finally:
            for asked in running:
                ray.cancel(asked)
        self._lost.clear()
        return [found[index] for index in range(len(prompts))]

    def logprobs(self, sequences: list[list[int]]) -> list[list[float]]:
        """Log-probability of each token of each sequence, from its second one on. No generator is replaced.

        Raises:
            GeneratorLost: a generator was lost.
        """
        places = [self._actors[at % len(self._actors)] for at in range(len(sequences))]
        asked = [actor.logprobs.remote(tokens, self.hang_s) for actor, tokens in zip(places, sequences, strict=True)]
        return [answer_of(one, "logprobs", self.hang_s + START_S) for one in asked]

    def sync(self, send: Send, version: int) -> None:
        """Let all generators hold the weights that `send` brings; a fresh one gets the same later.

        Raises:
            PlacementError: generators were lost again and again.
            RaylmError: what a generator or the sender raised.
        """
        self._send = (send, version)
        for place, why in send(self._actors, version).lost.items():
            self._replace(place, GeneratorLost(why, where="weight transfer"))

    def close(self) -> None:
        """End all of them."""
        import ray

        for actor in self._actors:
            ray.kill(actor)

    def _free(self, running: dict[Any, tuple[int, int]], most: int, room: int) -> list[int]:
        """Places for up to `most` further requests, at each turn the one with the fewest; none gets more than `room`."""
        busy = Counter(dict.fromkeys(range(len(self._actors)), 0))
        busy.update(place for place, _ in running.values())
        places: list[int] = []
        while len(places) < most and min(busy.values()) < room:
            place = min(busy, key=busy.__getitem__)
            busy[place] += 1
            places.append(place)
        return places

    def _collect(self, done: list[Any], running: dict[Any, tuple[int, int]], found: dict[int, Any]) -> dict[int, GeneratorLost]:
        """Take over what is done; which generators were lost."""
        lost: dict[int, GeneratorLost] = {}
        for asked in done:
            place, index = running[asked]
            try:
                found[index] = answer_of(asked, "generate", self.hang_s)
            except GeneratorLost as cause:
                lost[place] = cause
            else:
                del running[asked]
        return lost

    def _silent(self, places: set[int]) -> dict[int, GeneratorLost]:
        """Those of which not even a sign of life comes."""
        asked = {place: self._actors[place].version.remote() for place in places}
        lost: dict[int, GeneratorLost] = {}
        for place, reference in asked.items():
            try:
                answer_of(reference, "generate", PING_S)
            except GeneratorLost as cause:
                lost[place] = cause
        return lost

    def _replace(self, place: int, lost: GeneratorLost) -> None:
        """A fresh generator in place of the lost one, with the newest weights."""
        while True:
            self._lost[place] += 1
            if self._lost[place] > MOST_LOST:
                raise PlacementError(
                    f"generator {place} was lost {self._lost[place]} times without a batch of completions in between: "
                    f"{lost.what}",
                    where=lost.where,
                    next="was it out of memory? lower max_tokens or prompts_per_iteration; was it slow? raise generator.hang_s",
                ) from lost
            print(f"  {lost.what}; a fresh one takes the newest weights and goes on ({self._lost[place]})", file=sys.stderr)
            self._renew(place)
            try:
                self._answered(self._actors[place].start.remote(**self._start))
                if self._send is None:
                    return
                send, version = self._send
                again = send([self._actors[place]], version).lost
                if not again:
                    return
                lost = GeneratorLost(again[0], where="weight transfer")
            except GeneratorLost as cause:
                lost = cause

    def _renew(self, place: int) -> None:
        import ray

        ray.kill(self._actors[place])
        self._actors[place] = self._make(place)

    def _answered(self, reference: Any) -> None:
        self.dtype = answer_of(reference, "start", max(self.hang_s, START_S))


def pool_key(spec: GeneratorSpec) -> str:
    """What generators are held by: their resources are part of it, so that a stage never gets others than it asked for."""
    return f"{PART}:{spec.count} x {spec.cpus:g} CPU, {spec.gpus:g} GPU;"


def hold_pool(workers: Workers, spec: GeneratorSpec) -> Pool:
    """The generators for `spec` that `workers` keeps from stage to stage, made now if none are held. Others are closed: they
    would hold what these need."""
    key = pool_key(spec)
    if not workers.holds(key):
        workers.release(f"{PART}:")

    def make(place: int) -> Any:
        import ray

        options = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "max_restarts": 0}
        where = workers.place(PART, spec.role(), "the generators", place)
        return ray.remote(Generator).options(**options, scheduling_strategy=where).remote(gpu=spec.gpus > 0)

    pool = workers.hold(key, lambda: Pool(make, spec.count), Pool.close)
    pool.hang_s, pool.memory_share = spec.hang_s, spec.memory_share
    return pool
