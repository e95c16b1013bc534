"""Generators side by side: requests are spread over them, and one that is lost is replaced while the others go on.

    pool.submit(key, prompt, ...)  --> the healthy generator with the least work --> pool.wait() -> (key, completions), ...
    pool.sync(send, version)       --> every generator holds the weights that `send` brings; requests stand still and go on
    pool.generate(prompts)         --> submit and wait for all, in the order of the prompts

A prompt that ends one generator after the other is set aside (`Quarantined` stands for its completions) where it came by
`submit`; `generate` raises. Completions depend on prompt, seed and weights alone, hence not on the number of generators nor on
which of them are lost. All methods may be called from several threads: a `wait` goes on while another thread syncs.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Hashable
from functools import partial
from typing import Any

from raylm.core.errors import PlacementError, RaylmError
from raylm.core.workers import Workers
from raylm.inference.calls import answer_of
from raylm.inference.completions import Completion, Quarantined, Sampling
from raylm.inference.config import MEMORY_SHARE, GeneratorSpec
from raylm.inference.engine_dtype import EngineDtype
from raylm.inference.fleet import TICK_S, Fleet
from raylm.inference.generator import Generator
from raylm.inference.health import State
from raylm.inference.held_weights import HeldWeights, Send
from raylm.inference.requests import Request, Requests

PART = "generator"
"""What keys of held generators begin with, and their part in a reservation."""
MOST_SEQUENCES = 512
"""Completions that one generator is asked for at a time: two batches of an engine."""
MOST_QUARANTINED = 3
"""Prompts set aside in a row, without an answer to another one in between, after which the generators count as what is broken."""


class Pool:
    """Generators of one size, held from stage to stage by `hold_pool`.

    Args:
        make: starts the actor of one place.
    """

    def __init__(self, make: Callable[[int], Any], count: int) -> None:
        self._fleet = Fleet(make, count, self._on_loss, self._on_look)
        self._weights = HeldWeights(self._fleet, self._on_proved)
        self._lock = self._fleet.lock
        self._requests = Requests()
        self._quarantine_after: int | None = None
        self._quarantined: dict[tuple[int, ...], Quarantined] = {}
        self._in_a_row = 0
        self._options: dict[str, Any] = {}
        self._most = MOST_SEQUENCES
        self.memory_share = MEMORY_SHARE
        """Part of a GPU's memory that each engine takes."""
        self.dtype = EngineDtype("auto", "")
        """What the engines compute in, and why."""

    @property
    def hang_s(self) -> float:
        """Seconds without a token of any request, or in which a part of the weights is not taken, until one is replaced."""
        return self._fleet.hang_s

    @hang_s.setter
    def hang_s(self, seconds: float) -> None:
        self._fleet.hang_s = seconds

    @property
    def _actors(self) -> list[Any]:
        return self._fleet.actors

    def limit(self, spec: GeneratorSpec) -> None:
        """Take over the deadlines, limits and engine options of a stage."""
        self._options, self._most = spec.options, 2 * spec.max_num_seqs if spec.max_num_seqs else MOST_SEQUENCES
        fleet, self.memory_share = self._fleet, spec.memory_share
        fleet.hang_s, fleet.ping_s, fleet.start_s, fleet.max_restarts = spec.hang_s, spec.ping_s, spec.start_s, spec.max_restarts
        self._weights.probe_nats = spec.probe_nats
        # a pool that gives its generators up before a prompt has ended so many sets none aside
        after = spec.quarantine_after
        self._quarantine_after = after if after is not None and after <= spec.max_restarts else None

    def start(self, path: str, max_len: int, dtype: str = "auto", seed: int = 0, **further: Any) -> None:
        """Let all generators hold the checkpoint at `path`: the held ones where they can take it, fresh ones else. Requests of
        an earlier stage are dropped; a `generate` of another thread raises.

        Args:
            further: arguments of vLLM's engine beside those of the spec.

        Raises:
            GeneratorLost: a fresh one died, or did not start in time.
            RaylmError: the checkpoint cannot be held.
        """
        with self._lock:
            dropped = self._requests
            self._requests = Requests(None if self._quarantine_after is None else self._quarantine_after - 1)
            self._quarantined, self._in_a_row = {}, 0
            for request in dropped.running:
                _call_off(request)
            self._lock.notify_all()
        whole = self._options | further
        options = {"options": whole} if whole else {}
        self.dtype = self._weights.start(
            model_path=path, max_len=max_len, dtype=dtype, seed=seed, memory_share=self.memory_share, **options
        )
        # what it is to compute in is what the trainer computes in
        alike = dtype in ("auto", self.dtype.name) and "kv_cache_dtype" not in self._options
        self._weights.dtype = self.dtype.name if alike else "mixed"

    def submit(self, key: Hashable, tokens: list[int], sampling: Sampling, seed: int) -> None:
        """Ask for `sampling.n` completions of a prompt of token ids; `wait` answers under `key`.

        Raises:
            ValueError: a request with this key is under way.
        """
        with self._lock:
            request = Request(key, tokens, sampling, seed)
            self._requests.add(request)
            if (known := self._quarantined.get(tuple(tokens))) is not None:
                self._requests.fail(request, known)
                self._lock.notify_all()
            self._dispatch()

    def wait(self, timeout_s: float) -> list[tuple[Hashable, list[Completion] | Quarantined]]:
        """All submitted requests that were answered since the last call, as soon as there is one; [] after `timeout_s` or when
        none is under way. `Quarantined` stands for the completions of a prompt that ended `quarantine_after` generators: after
        all but one of these it had the next one to itself, and that ended at once. It is not asked again until `start`.

        Raises:
            PlacementError: no generator is left, or none has weights.
            RaylmError: what a generator raised of one request, which is dropped; or the sender of weights for a fresh one.
        """
        return self._wait(None, timeout_s)

    def answers(self, timeout_s: float) -> list[tuple[Hashable, list[Completion] | Quarantined | RaylmError]]:
        """`wait`, but what a generator raised of a request comes as its answer.

        Raises:
            PlacementError: no generator is left, or none has weights.
        """
        return self._wait(None, timeout_s, raising=False)

    def cancel(self, key: Hashable) -> bool:
        """Drop a request, wherever it is; False where there is none with this key (any more)."""
        with self._lock:
            request = self._requests.find(None, key)
            if request:
                self._cancel(request)
            return request is not None

    def generate(self, prompts: list[list[int]], sampling: Sampling, seeds: list[int] | None = None) -> list[list[Completion]]:
        """`sampling.n` completions of each prompt of token ids.

        Args:
            seeds: one per prompt; sampling.seed + its place when they are not given.

        Raises:
            PlacementError: generators were lost again and again, or another thread started them anew.
            RaylmError: what a generator raised, or the sender of weights for a fresh one.
        """
        seeds = seeds if seeds is not None else [sampling.seed + index for index in range(len(prompts))]
        owner, found = object(), dict[Hashable, list[Completion]]()
        requests = [
            Request(at, *asked, owner=owner)
            for at, asked in enumerate(zip(prompts, [sampling] * len(prompts), seeds, strict=True))
        ]
        with self._lock:
            asked_of = self._requests
            for request in requests:
                asked_of.add(request)
            self._dispatch()
        try:
            while len(found) < len(prompts):
                found.update(self._wait(owner, self._fleet.hang_s))
                if self._requests is not asked_of:
                    raise PlacementError("the generators were started anew while they were asked", where="generators")
        finally:
            with self._lock:
                for request in requests:
                    if self._requests.find(owner, request.key):
                        self._cancel(request)
        return [found[index] for index in range(len(prompts))]

    def logprobs(self, sequences: list[list[int]]) -> list[list[float]]:
        """Log-probability of each token of each sequence, from its second one on. No generator is replaced.

        Raises:
            GeneratorLost: a generator was lost.
        """
        with self._lock:
            places = self._fleet.healthy() or range(len(self._actors))
            actors = [self._actors[places[at % len(places)]] for at in range(len(sequences))]
        asked = [actor.logprobs.remote(tokens, self.hang_s) for actor, tokens in zip(actors, sequences, strict=True)]
        return [answer_of(one, "logprobs", self.hang_s + self._fleet.start_s) for one in asked]

    def sync(self, send: Send, version: int) -> None:
        """Let all generators that live hold the weights that `send` brings; those that start now or later get the same by
        another call of `send`, from a thread of the pool: it waits there while the trainer works, and what it brings counts only
        if its digest is that of this transfer. Requests that are under way stand still and go on.

        Raises:
            RaylmError: what a generator or the sender raised.
        """
        self._weights.sync(send, version)

    def sleep(self) -> None:
        """Let all generators give back their GPUs' memory, weights and cache, to the trainer that works there. Requests stand
        still; the next `sync` wakes them with its weights, `wake` with those they had. One that is lost meanwhile is replaced
        then.

        Raises:
            PlacementError: no weights were sent yet which they could wake with.
        """
        self._weights.sleep()

    def wake(self) -> None:
        """Let generators that sleep take the weights of the last `sync` again, from a thread of the pool. Not needed before
        one."""
        self._weights.wake()

    def health(self) -> dict[int, State]:
        """State of the generator of each place."""
        with self._lock:
            return {place: one.state for place, one in enumerate(self._fleet.health)}

    def counts(self) -> dict[str, int]:
        """`generators_lost` and, among them, `generators_refused` since the pool was made: what they said was not what the
        trainer says of its weights."""
        with self._lock:
            return {name: self._fleet.counts[name] for name in ("generators_lost", "generators_refused")}

    def num_quarantined(self) -> int:
        """Prompts that were set aside since the last start."""
        with self._lock:
            return len(self._quarantined)

    def probe_nats(self) -> float | None:
        """Mean difference between log-probabilities of the generators and the trainer, of the one that was furthest off after
        the last transfer; None where nothing was compared."""
        with self._lock:
            return max(self._weights.nats.values(), default=None)

    def close(self) -> None:
        """End all of them."""
        self._fleet.close()

    def _wait(self, owner: object, timeout_s: float, raising: bool = True) -> list[tuple[Hashable, Any]]:
        until = time.monotonic() + timeout_s
        with self._lock:
            while True:
                cause = self._fleet.failure()
                found = self._requests.collect(owner)
                failed = found[0].answer if found and isinstance(found[0].answer, Exception) else None
                if failed and (cause or raising or not isinstance(failed, RaylmError)):
                    raise cause or failed
                if found or not self._requests.outstanding(owner):
                    return [(request.key, request.answer) for request in found]
                if cause := cause or self._weights.failure():
                    raise cause
                left = until - time.monotonic()
                if left <= 0:
                    return []
                # a signal is heeded between two of these
                self._lock.wait(min(left, 10 * TICK_S))

    def _dispatch(self) -> None:
        """Requests go to generators that have room."""
        able = [*self._fleet.healthy(), *self._weights.taking]
        while (place := self._requests.next_place(able, self._most)) is not None:
            request = self._requests.run(place)
            then = partial(self._answered, request)
            asked = (request.tokens, request.sampling, request.seed, self._fleet.hang_s)
            request.reference = self._fleet.ask(place, "generate", then, *asked)

    def _answered(self, request: Request, answer: Any, cause: BaseException | None) -> None:
        place = self._requests.running.get(request)
        if place is None:
            return  # cancelled
        alone = self._requests.suspected(request)
        self._requests.answered(request, cause or answer, self._fleet.proves(place))
        # one that had it to itself and answers is one less that may be what ends it
        if alone or not self._requests.lost_at.get(place):
            self._fleet.health[place].losses = 0
        self._in_a_row = 0
        self._dispatch()
        self._lock.notify_all()

    def _on_proved(self, place: int) -> None:
        self._requests.proved(place)
        self._dispatch()
        self._lock.notify_all()

    def _on_look(self) -> None:
        self._weights.look()
        self._dispatch()
        self._lock.notify_all()

    def _on_loss(self, place: int, by_request: bool) -> None:
        self._weights.lost(place)
        after = self._quarantine_after
        for request in self._requests.lost(place, by_request):
            if after is not None and request.owner is None and request.proved and request.deaths >= after:
                self._set_aside(request, place)
            elif request.losses > self._fleet.max_restarts and not self._requests.suspected(request):
                why = f"a prompt of {len(request.tokens)} tokens was lost with its generator {request.losses} times: "
                hint = "is it what ends them? drop it, lower max_tokens, or raise generator.max_restarts"
                self._requests.fail(request, PlacementError(why + self._fleet.health[place].why, next=hint))
        self._dispatch()
        self._lock.notify_all()

    def _set_aside(self, request: Request, place: int) -> None:
        """No generator is asked this prompt any more, and this one is not given up for it."""
        found = Quarantined(request.deaths, self._fleet.health[place].why)
        what = f"a prompt of {len(request.tokens)} tokens ended {found.deaths} generators, the last one on it alone"
        print(f"  {what}: it is set aside", file=sys.stderr)
        self._quarantined[tuple(request.tokens)] = found
        for one in [one for one in self._requests.owed if one.owner is None and one.tokens == request.tokens]:
            self._requests.fail(one, found)
        self._in_a_row += 1
        if self._in_a_row < MOST_QUARANTINED:
            self._fleet.health[place].losses = 0

    def _cancel(self, request: Request) -> None:
        runs = request in self._requests.running
        self._requests.forget(request)
        if runs:
            _call_off(request)
        self._dispatch()


def _call_off(request: Request) -> None:
    """Let the generator that works on it stop."""
    import ray

    if request.reference is not None:
        ray.cancel(request.reference)


def pool_key(spec: GeneratorSpec) -> str:
    """What generators are held by: their resources are part of it, so that a stage never gets others than it asked for."""
    return f"{PART}:{spec.count} x {spec.cpus:g} CPU, {spec.gpus:g} GPU{spec.sync.backend and ' '}{spec.sync.backend};"


def hold_pool(workers: Workers, spec: GeneratorSpec) -> Pool:
    """The generators for `spec` that `workers` keeps from stage to stage, made now if none are held. Others are closed: they
    would hold what these need."""
    key = pool_key(spec)
    if not workers.holds(key):
        workers.release(f"{PART}:")

    def make(place: int) -> Any:
        import ray

        # a ping must come through beside all requests
        calls = 64 + max(1000, 4 * (spec.max_num_seqs or 0))
        options = {"num_cpus": spec.cpus, "num_gpus": spec.gpus, "max_restarts": 0, "max_concurrency": calls}
        where = workers.place(PART, spec.role(), "the generators", place)
        return ray.remote(Generator).options(**options, scheduling_strategy=where).remote(spec.gpus > 0, spec.sync.backend)

    pool = workers.hold(key, lambda: Pool(make, spec.count), Pool.close)
    pool.limit(spec)
    return pool
