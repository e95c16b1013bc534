"""How an engine that serves is: its load in numbers, and whether it works, is dead, or hangs."""

from __future__ import annotations

import time
from collections import deque
from collections.abc import Callable
from typing import NamedTuple

from raylm.inference.vllm_serving_private import Step

LATELY_S = 10.0
"""Seconds that rates and waits are taken over."""
IDLE_SHARE = 0.05
"""Of one core: a process that used less since the last sign of it computes nothing."""
LONG = 10.0
"""Times `hang_s` that an engine which computes may go without a sign: a prompt of a long context is read in one step."""


class Busy(NamedTuple):
    """The load of an engine. None is what it has not told yet, which is not zero."""

    running: int | None
    waiting: int | None
    queued_tokens: int
    kv_use: float | None
    ttft_s: float | None
    tokens_s: float | None
    read_tokens: int | None = None
    """Tokens of prompts that it has read since it began; those that it knew already do not count."""
    read_prompts: int | None = None
    """Prompts that have got a first token since then."""


class Meter:
    """Adds up what the steps of an engine say.

    Args:
        under_way: requests that the engine has, as its front end counts them: the engine says nothing when the last has ended.
        queued_tokens: tokens of prompts that wait or are being read.
    """

    def __init__(
        self, under_way: Callable[[], int], queued_tokens: Callable[[], int], clock: Callable[[], float] = time.monotonic
    ) -> None:
        self._under_way, self._queued, self._clock = under_way, queued_tokens, clock
        self._last: Step | None = None
        self._tokens: deque[tuple[float, int]] = deque()
        self._firsts: deque[tuple[float, float]] = deque()
        self._began = clock()
        self.steps = self.preempted = self.read_tokens = self.read_prompts = 0
        """Steps that were heard of, requests that lost their place in the cache, tokens of prompts that were read."""

    def heard(self, step: Step) -> None:
        """One step."""
        now = self._clock()
        self._last, self.steps, self.preempted = step, self.steps + 1, self.preempted + step.preempted
        self.read_tokens += step.read_tokens
        self.read_prompts += len(step.first_tokens_s)
        if step.new_tokens:
            self._tokens.append((now, step.new_tokens))
        self._firsts += [(now, seconds) for seconds in step.first_tokens_s]

    def busy(self) -> Busy:
        """The load now."""
        now, last = self._clock(), self._last
        for kept in (self._tokens, self._firsts):
            while kept and kept[0][0] < now - LATELY_S:
                kept.popleft()
        firsts = sorted(seconds for _, seconds in self._firsts)
        rate = sum(count for _, count in self._tokens) / min(LATELY_S, max(now - self._began, 1e-3)) if last else None
        ttft = firsts[len(firsts) // 2] if firsts else None
        read = (self.read_tokens, self.read_prompts)
        if not self._under_way():
            # of caches kept for prompts that begin alike, what nobody uses counts as free
            return Busy(0, 0, 0, 0.0 if last else None, ttft, rate, *read)
        if last is None:
            return Busy(None, None, self._queued(), None, ttft, rate, *read)
        return Busy(last.running, last.waiting, self._queued(), last.kv_use, ttft, rate, *read)


class HangWatch:
    """Tells an engine that hangs from one that reads a long prompt: the one computes, the other does not.

    Args:
        hang_s: seconds without a sign of an engine that has something to do and computes nothing.
    """

    def __init__(self, hang_s: float, now: float) -> None:
        self._hang_s, self._now, self._sign, self._cpu_s = hang_s, now, 0, 0.0

    def look(self, now: float, asked: bool, sign: int, cpu_s: float) -> str:
        """Why the engine hangs; "" where it does not.

        Args:
            asked: there is something that it should answer.
            sign: a number that changes with whatever it answers.
            cpu_s: seconds of CPU time that its processes have used.
        """
        silent_s = now - self._now
        if not asked or sign != self._sign or silent_s < 0:
            self._now, self._sign, self._cpu_s = now, sign, cpu_s
            return ""
        if silent_s <= self._hang_s:
            return ""
        if cpu_s - self._cpu_s < IDLE_SHARE * silent_s:
            return f"the engine has not answered for {silent_s:.1f} s, and computes nothing"
        if silent_s > LONG * self._hang_s:
            return f"the engine has not answered for {silent_s:.1f} s"
        return ""
