"""A model of one replica's engine: continuous batching with chunked prefill, as a fluid between events.

A step takes `step_s + seq_s * (answers - 1) + chunk / prefill_tokens_s`: in it each answer gains a token, and prompts lose a
chunk, first come, first served. Between two events (a prompt is read, an answer ends, a request comes) all these rates stay, so
that an hour of requests is a few events for each, and no step is walked through.
"""

from __future__ import annotations

import heapq
from collections import deque
from typing import NamedTuple

from pydantic import Field

from raylm.core.config import Config
from raylm.serve.directory import Load

LATELY_S = 10.0
"""Seconds that a replica's rates and waits are told over, as `raylm.inference.engine_watch` does."""
TINY = 1e-6
"""Of a token: what clocks of a day lose."""


class EngineModel(Config):
    """An engine in numbers; `calibrate` finds them in an audit log."""

    prefill_tokens_s: float = Field(default=10_000.0, gt=0)
    """Tokens of prompts that it reads in a second where nothing else is to be done."""
    step_s: float = Field(default=0.02, gt=0)
    """Seconds of a step with one answer: what a token takes."""
    seq_s: float = Field(default=0.0002, ge=0)
    """Seconds that each further answer adds to a step."""
    chunk_tokens: int = Field(default=2048, ge=1)
    """Tokens of prompts in a step (`max_num_batched_tokens`)."""
    kv_tokens: int = Field(default=200_000, ge=1)
    """Tokens that fit into the key-value cache."""
    max_num_seqs: int = Field(default=256, ge=1)
    """Requests that it works on at once."""
    cold_start_s: float = Field(default=60.0, ge=0)
    """Seconds from being asked for until it answers."""


class Job(NamedTuple):
    """A request in an engine."""

    number: int
    came: float
    """Seconds; when the engine got it."""
    prompt: int
    answer: int


class Ended(NamedTuple):
    """What an engine has done: a first token, or the last one."""

    job: Job
    at: float
    first: bool
    last: bool


class Engine:
    """One replica's. Requests that do not fit into the cache with their whole answer wait, so that none is thrown out."""

    def __init__(self, model: EngineModel, now: float) -> None:
        self._model, self._now = model, now
        self._waiting: deque[Job] = deque()
        self._reading: deque[Job] = deque()
        self._left = 0.0
        """Tokens of the first prompt that are not read yet."""
        self._unread = 0
        self._writing: list[tuple[float, int, Job]] = []
        self._written = 0.0
        """Tokens that an answer that never ended would have."""
        self._kv = 0
        self._made, self._read, self._prompts = 0.0, 0, 0
        self._history: deque[tuple[float, float]] = deque([(now, 0.0)])
        self._firsts: deque[tuple[float, float]] = deque()
        self._chunk = 0.0

    @property
    def ongoing(self) -> int:
        """Requests that it has."""
        return len(self._waiting) + len(self._reading) + len(self._writing)

    def add(self, job: Job, now: float) -> list[Ended]:
        """A request more; and what ended until now."""
        ended = self.advance(now)
        self._waiting.append(job)
        self._unread += job.prompt
        self._admit()
        return ended

    def next_at(self) -> float | None:
        """When something ends next, if nothing comes until then."""
        step = self._step_s()
        reads = self._left * step / self._chunk if self._reading else None
        writes = (self._writing[0][0] - self._written) * step if self._writing else None
        waits = min((each for each in (reads, writes) if each is not None), default=None)
        return None if waits is None else self._now + max(waits, 0.0)

    def advance(self, now: float) -> list[Ended]:
        """Let time pass, and return what ended; at most one event may lie before `now`, and none but at its end."""
        passed, step = now - self._now, self._step_s()
        if passed > 0 and step > 0:
            if self._writing:
                self._written += passed / step
                self._made += len(self._writing) * passed / step
            if self._reading:
                self._left -= passed * self._chunk / step
        self._now = now
        ended = [*self._finish_reading(), *self._finish_writing()]
        if ended:
            self._admit()
        return ended

    def load(self) -> Load:
        """As a replica tells it."""
        while len(self._history) > 1 and self._history[1][0] <= self._now - LATELY_S:
            self._history.popleft()
        while self._firsts and self._firsts[0][0] < self._now - LATELY_S:
            self._firsts.popleft()
        self._history.append((self._now, self._made))
        began, made = self._history[0]
        firsts = sorted(seconds for _, seconds in self._firsts)
        return Load(
            running=len(self._reading) + len(self._writing),
            waiting=len(self._waiting),
            queued_tokens=self._unread,
            kv_use=self._kv / self._model.kv_tokens,
            ttft_s=firsts[len(firsts) // 2] if firsts else None,
            tokens_s=(self._made - made) / max(self._now - began, 1.0),
            read_tokens=self._read,
            read_prompts=self._prompts,
        )

    def _step_s(self) -> float:
        if not self._reading and not self._writing:
            return 0.0
        model, chunk = self._model, self._chunk if self._reading else 0.0
        return model.step_s + model.seq_s * max(len(self._writing) - 1, 0) + chunk / model.prefill_tokens_s

    def _finish_reading(self) -> list[Ended]:
        ended = []
        if self._reading and self._left <= TINY:
            job = self._reading.popleft()
            self._read, self._unread, self._made = self._read + job.prompt, self._unread - job.prompt, self._made + 1
            self._prompts += 1
            self._firsts.append((self._now, self._now - job.came))
            last = job.answer == 1
            ended.append(Ended(job, self._now, first=True, last=last))
            if last:
                self._kv -= job.prompt + job.answer
            else:
                heapq.heappush(self._writing, (self._written + job.answer - 1, job.number, job))
            self._begin()
        return ended

    def _finish_writing(self) -> list[Ended]:
        ended = []
        while self._writing and self._writing[0][0] <= self._written + TINY:
            job = heapq.heappop(self._writing)[2]
            self._kv -= job.prompt + job.answer
            ended.append(Ended(job, self._now, first=False, last=True))
        return ended

    def _admit(self) -> None:
        model, idle = self._model, not self._reading
        while self._waiting and len(self._reading) + len(self._writing) < model.max_num_seqs:
            job, alone = self._waiting[0], not self._kv
            # a request that no cache holds would wait for ever: an engine refuses it
            if self._kv + job.prompt + job.answer > model.kv_tokens and not alone:
                break
            self._kv += job.prompt + job.answer
            self._reading.append(self._waiting.popleft())
        if idle:
            self._begin()

    def _begin(self) -> None:
        """The next prompt is read; a step reads no more than there is."""
        if self._reading:
            self._left = float(self._reading[0].prompt)
            self._chunk = float(min(self._model.chunk_tokens, sum_of(self._reading, self._model.chunk_tokens)))


def sum_of(jobs: deque[Job], most: int) -> int:
    """Tokens of the prompts, counted up to `most`."""
    total = 0
    for job in jobs:
        total += job.prompt
        if total >= most:
            return most
    return total
