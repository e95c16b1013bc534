"""Groups under way: from a prompt that is asked to its scored rollouts, without waiting for any of them in particular.

ask --> generators --wait--> (environment, and generators again) --> rewards --poll--> finished groups, in any order

A group is scored when all its trajectories are there, because a reward may compare them. What is not drawn by the deadline is
cut, and counted: a slow prompt holds nothing up.
"""

from __future__ import annotations

import time
from collections import defaultdict
from collections.abc import Hashable
from dataclasses import dataclass, field
from itertools import count
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.config import digest_of
from raylm.inference.completions import Completion, Quarantined
from raylm.rl.order import Ask
from raylm.rl.placement import Generators, check_versions
from raylm.rl.reward_workers import RewardWorkers
from raylm.rl.types import Prompt, Rollout, Trajectory, Unscored

if TYPE_CHECKING:
    from raylm.rl.conversations import Conversations

GLANCE_S = 0.02
"""Longest wait for one of several things that are all under way."""
HELD_OUT = -1
"""Position of prompts that no iteration learns from."""


class Drawn(NamedTuple):
    """One trajectory of a group."""

    prompt: Prompt
    """As it was asked: an environment may have said something first."""
    trajectory: Trajectory
    unscored: Unscored | None = None
    """Why no reward is asked of it."""


@dataclass(eq=False)
class Group:
    """One prompt that was asked, and what came of it."""

    number: int
    """Of all that were asked, in their order."""
    ask: Ask
    prompt: Prompt
    version: int
    """Of the weights that the generators held when it was asked: none of its tokens is older."""
    num: int
    """Of trajectories."""
    temperature: float
    asked_s: float
    drawn: dict[int, Drawn] = field(default_factory=dict)
    """By place among the trajectories."""
    rollouts: list[Rollout] = field(default_factory=list)

    def teaches(self) -> bool:
        """Whether what its members earned differs: where all is alike none is better than the others."""
        values = [earned for one in self.rollouts if (earned := one.earned) is not None]
        return bool(values) and max(values) != min(values)

    def fill_up(self, why: Unscored) -> None:
        """What was not drawn never will be."""
        for place in range(self.num):
            self.drawn.setdefault(place, Drawn(self.prompt, Trajectory([], [], "", why.kind), why))

    def take(self, scored: list[Rollout]) -> None:
        """The rollouts of those trajectories that rewards were asked of."""
        left = iter(scored)
        found = [self.drawn[place] for place in range(self.num)]
        self.rollouts = [
            Rollout(one.prompt, one.trajectory, None, one.unscored) if one.unscored else next(left)._replace(prompt=one.prompt)
            for one in found
        ]

    def leave_out(self, why: Unscored) -> None:
        """Nothing of it is learned from."""
        self.fill_up(why)
        self.rollouts = [Rollout(one.prompt, one.trajectory, None, why) for _, one in sorted(self.drawn.items())]


class Rollouts:
    """All groups that are under way.

    Args:
        num: trajectories per prompt.
        timeout_s: seconds from the asking to the last token of a group; None: as long as generators move.
        conversations: with an environment; None: a trajectory is one completion.
    """

    def __init__(
        self,
        generators: Generators,
        rewards: RewardWorkers,
        num: int,
        temperature: float,
        timeout_s: float | None,
        conversations: Conversations | None = None,
    ) -> None:
        self._generators, self._rewards, self._conversations = generators, rewards, conversations
        self._num, self._temperature, self._timeout_s = num, temperature, timeout_s
        self._requests: set[Hashable] = set()
        self._drawing: dict[int, Group] = {}
        self._scoring: dict[Hashable, Group] = {}
        self._finished: list[Group] = []
        self._numbers = count()
        self._idle_since: float | None = time.perf_counter()
        self._seconds = defaultdict[str, float](float)
        self.newest = 0
        """Version of the newest weights that were sent to generators: none can have drawn by later ones."""

    @property
    def under_way(self) -> list[Group]:
        """All that `poll` has not given yet, in the order in which they were asked."""
        return sorted([*self._drawing.values(), *self._scoring.values(), *self._finished], key=lambda group: group.number)

    @property
    def num_under_way(self) -> int:
        """Number of them."""
        return len(self._drawing) + len(self._scoring) + len(self._finished)

    @property
    def drawing(self) -> bool:
        """Whether trajectories are still to come."""
        return bool(self._drawing)

    def ask(self, ask: Ask, prompt: Prompt, seed: int, version: int) -> None:
        """Ask one prompt. A draw depends on seed, position and row alone, and on the weights: a resumed run draws what the
        uninterrupted one would have drawn."""
        self._submit(ask, prompt, int(digest_of([seed, ask.position, ask.row])[:12], 16), version, self._num, self._temperature)

    def poll(self, timeout_s: float) -> list[Group]:
        """Groups that are finished now; waits up to `timeout_s` for something to happen.

        Raises:
            GroupLost: a generator was lost, and the trainer whose weights a fresh one needs is lost too.
            StageError: tokens were drawn by weights that they cannot be of; or what the rewards raise.
        """
        self._cut_late()
        talking = self._conversations is not None and len(self._conversations) > len(self._requests)
        wait_s = min(timeout_s, self._until_late())
        if talking + bool(self._requests) + bool(self._scoring) > 1:
            wait_s = min(wait_s, GLANCE_S)
        if self._finished:
            wait_s = 0.0
        if self._requests:
            for key, completions in self._generators.wait(wait_s):
                self._answered(key, completions)
            self._count_idle()
            wait_s = 0.0
        if self._conversations is not None and len(self._conversations):
            self._go_on(self._conversations, wait_s if talking else 0.0)
        if self._scoring:
            began = time.perf_counter()
            done = self._rewards.poll(0.0 if self._drawing else wait_s)
            self._seconds["reward_s"] += 0.0 if self._drawing else time.perf_counter() - began
            for key, rollouts in done:
                if (group := self._scoring.pop(key, None)) is not None:
                    group.take(rollouts)
                    self._finished.append(group)
        found, self._finished = self._finished, []
        return found

    def greedy(self, prompts: list[Prompt], version: int) -> list[Rollout]:
        """The likeliest answer to each prompt, scored. Others that come to their end meanwhile are left for the next `poll`."""
        numbers = [self._submit(Ask(HELD_OUT, prompt.row), prompt, 0, version, 1, 0.0) for prompt in prompts]
        found: dict[int, Group] = {}
        others: list[Group] = []
        while len(found) < len(numbers):
            for group in self.poll(1.0):
                if group.ask.position == HELD_OUT:
                    found[group.number] = group
                else:
                    others.append(group)
        self._finished += others
        return [rollout for number in numbers for rollout in found[number].rollouts]

    def cut(self, group: Group, why: Unscored) -> None:
        """End a group that is under way; the next `poll` has it, without a score."""
        self._stop(group)
        if self._scoring.pop(group.number, None) is not None:
            self._rewards.cancel(group.number)
        group.leave_out(why)
        if group not in self._finished:
            self._finished.append(group)

    def cancel(self) -> None:
        """Forget all that is under way."""
        for group in list(self._drawing.values()):
            self._stop(group)
        for number in self._scoring:
            self._rewards.cancel(number)
        self._scoring, self._finished = {}, []

    def taken(self, name: str) -> float:
        """Seconds since the last call: `idle_s`, in which no generator had anything to do; `reward_s`, in which `poll` waited for
        rewards alone."""
        self._count_idle()
        return round(self._seconds.pop(name, 0.0), 3)

    def _submit(self, ask: Ask, prompt: Prompt, seed: int, version: int, num: int, temperature: float) -> int:
        group = Group(next(self._numbers), ask, prompt, version, num, temperature, time.monotonic())
        self._drawing[group.number] = group
        if self._conversations is None:
            self._request(group.number, prompt.tokens, num, temperature, seed)
        else:
            from raylm.inference.generator import stream

            for place in range(num):
                self._conversations.begin((group.number, place), prompt, stream(seed, place))
        return group.number

    def _request(
        self, key: Hashable, tokens: list[int], num: int, temperature: float, seed: int, most: int | None = None
    ) -> None:
        self._count_idle()
        self._requests.add(key)
        self._idle_since = None
        self._generators.submit(key, tokens, num, temperature, seed, most)

    def _answered(self, key: Any, completions: list[Completion] | Quarantined) -> None:
        self._requests.discard(key)
        number = key if self._conversations is None else key[0]
        group = self._drawing.get(number)
        if group is None:
            return  # it was cut in the meantime
        if isinstance(completions, Quarantined):
            self._quarantined(key, group, completions)
            return
        check_versions([completions], self.newest, group.version)
        if self._conversations is not None:
            self._conversations.next(key, completions[0])
            return
        group.drawn = {place: Drawn(group.prompt, Trajectory.of(one)) for place, one in enumerate(completions)}
        self._score(group)

    def _quarantined(self, key: Any, group: Group, found: Quarantined) -> None:
        """A prompt that ends its generators is not drawn, a conversation that came to such a place is not learned from."""
        why = Unscored("quarantined", f"the prompt ended {found.deaths} generators, the last one on it alone: {found.why}")
        if self._conversations is None:
            group.fill_up(why)
        else:
            self._conversations.cancel(key)
            group.drawn[key[1]] = Drawn(group.prompt, Trajectory([], [], "", why.kind), why)
        if len(group.drawn) == group.num:
            self._score(group)

    def _go_on(self, conversations: Conversations, wait_s: float) -> None:
        """What an environment answered is asked of the generators; conversations that are over belong to their group."""
        from raylm.rl.conversations import Request

        for one in conversations.ready(wait_s):
            number, place = one.key  # type: ignore[misc]
            group = self._drawing[number]
            if isinstance(one, Request):
                self._request(one.key, one.tokens, 1, group.temperature, one.seed, one.max_tokens)
                continue
            group.drawn[place] = Drawn(one.prompt, one.trajectory, one.unscored)
            if len(group.drawn) == group.num:
                self._score(group)

    def _score(self, group: Group) -> None:
        """All trajectories are there: rewards are asked."""
        del self._drawing[group.number]
        asked = [one.trajectory for _, one in sorted(group.drawn.items()) if one.unscored is None]
        if asked:
            self._scoring[group.number] = group
            self._rewards.submit(group.number, group.prompt, asked)
        else:
            group.take([])
            self._finished.append(group)

    def _stop(self, group: Group) -> None:
        """Nothing more of it is drawn."""
        if self._drawing.pop(group.number, None) is None:
            return
        keys = [group.number] if self._conversations is None else [(group.number, place) for place in range(group.num)]
        for key in keys:
            if key in self._requests:
                self._generators.cancel(key)
                self._requests.discard(key)
            if self._conversations is not None:
                self._conversations.cancel(key)
        self._count_idle()

    def _cut_late(self) -> None:
        if self._timeout_s is None:
            return
        why = Unscored("late", f"a completion was not there {self._timeout_s:g} s after it was asked (rollout_timeout_s)")
        for group in [one for one in self._drawing.values() if time.monotonic() - one.asked_s > self._timeout_s]:
            self._stop(group)
            self._drawing[group.number] = group
            group.fill_up(why)
            self._score(group)

    def _until_late(self) -> float:
        if self._timeout_s is None or not self._drawing:
            return float("inf")
        return max(min(one.asked_s for one in self._drawing.values()) + self._timeout_s - time.monotonic(), 0.0)

    def _count_idle(self) -> None:
        """Count up to now, and say whether generators have something to do from now on."""
        now = time.perf_counter()
        if self._idle_since is not None:
            self._seconds["idle_s"] += now - self._idle_since
        self._idle_since = None if self._requests else now
