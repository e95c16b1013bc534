"""What each iteration learns from: asks prompts in their order, ahead of the trainer as far as staleness allows, and chooses.

order --ask--> rollouts --finished--> without signal? refill (dynamic sampling) : wait for their iteration --choose--> Batch

With `max_staleness = 0` an iteration is the prompts at its position, drawn by the newest weights, in their order. With dynamic
sampling (DAPO, https://arxiv.org/abs/2503.14476, section 3.2) a group whose scores are all alike is replaced by the next prompt
at once; what is asked is then the shortest stretch of the order that holds enough groups with a signal, in whatever order the
completions come.
"""

from __future__ import annotations

import math
import sys
from typing import Any, NamedTuple

from raylm.rl.config import RL
from raylm.rl.order import Order
from raylm.rl.pacing import choose, room
from raylm.rl.rollouts import Group, Rollouts
from raylm.rl.types import Prompt, Rollout, Sample, Unscored

PACE = 0.125
"""Part of an iteration's groups by which it is asked further ahead, or less far."""
WAIT_S = 1.0
"""Longest wait between two looks at what is under way."""


class Batch(NamedTuple):
    """Groups of one iteration, in the order in which they were asked."""

    groups: list[Group]
    """That are learned from."""
    without_signal: list[Group]
    """That were replaced by others, and are not learned from."""

    @property
    def asked(self) -> list[Group]:
        """All of them."""
        return sorted([*self.groups, *self.without_signal], key=lambda group: group.number)

    @property
    def rollouts(self) -> list[Rollout]:
        """Of all groups."""
        return [rollout for group in self.asked for rollout in group.rollouts]

    def outcomes(self, samples: list[Sample] | None, outcome: str) -> dict[tuple[int, int], str]:
        """What became of samples, by number of their group and place in it; of all that were drawn for None."""
        if samples is None:
            return {(group.number, place): outcome for group in self.asked for place in range(group.num)}
        numbers = {group.prompt.row: group.number for group in self.groups}
        return {(numbers[sample.row], sample.place): outcome for sample in samples if sample.row in numbers}

    def found(self, why: dict[tuple[int, int], str]) -> dict[tuple[int, int], str]:
        """What became of samples, by row and place, as `outcomes` names them."""
        numbers = {group.prompt.row: group.number for group in self.groups}
        return {(numbers[row], place): outcome for (row, place), outcome in why.items()}

    def rejected(self, given: list[Sample], kept: list[Sample]) -> list[Sample]:
        """Those of the scored samples that an algorithm left out though there is something to learn from them: their group's
        scores differ, or, where a prompt is answered once, it kept others."""
        left = {(sample.row, sample.place) for sample in kept}
        teaches = {group.prompt.row: group.teaches() if group.num > 1 else bool(kept) for group in self.groups}
        return [sample for sample in given if (sample.row, sample.place) not in left and teaches[sample.row]]


class Batches:
    """The groups that were asked and not yet learned from.

    Args:
        prompts: by row.
    """

    def __init__(self, cfg: RL, rollouts: Rollouts, prompts: dict[int, Prompt], order: Order) -> None:
        self._cfg, self._rollouts, self._prompts, self._order = cfg, rollouts, prompts, order
        self._dynamic, self._staleness = cfg.dynamic_sampling, cfg.max_staleness
        self._finished: list[Group] = []
        self._without_signal: list[Group] = []
        self._iteration = self._version = self._held = self._position = 0
        self._enough = 2.0 * cfg.prompts_per_iteration
        """Groups under way or waiting that keep the trainer from waiting: the more there are, the older each is at its turn."""
        self._said = False

    @property
    def in_order(self) -> bool:
        """See `RL.in_order`."""
        return not self._dynamic and not self._staleness

    def go_on_from(self, iteration: int, position: int, found: dict[str, Any]) -> None:
        """Forget all that is under way, and go on where a step checkpoint stood: what was in flight is asked again.

        Args:
            position: of the iteration, in a run in which each has one.
            found: `state` of then; empty at a fresh start.
        """
        self._rollouts.cancel()
        self._finished, self._without_signal, self._iteration = [], [], iteration
        if self.in_order:
            self._order.go_to(position)
        elif found:
            self._order.go_on_from(found)
        else:
            # not to `position`: a batch that was passed over before the first checkpoint was whatever came first
            self._order.go_to(0)

    def state(self) -> dict[str, Any]:
        """For a step checkpoint: how far the order has come, and what of it no iteration has learned from."""
        return self._order.state(group.ask for group in self.waiting)

    @property
    def waiting(self) -> list[Group]:
        """Asked, and part of no iteration yet."""
        found = [*self._rollouts.under_way, *self._finished, *self._without_signal]
        return sorted(found, key=lambda group: group.number)

    def holds(self, version: int) -> None:
        """The generators hold the weights of `version`."""
        self._held = version

    def take(self, iteration: int, version: int, position: int) -> Batch:
        """The groups of one iteration, once they are there.

        Args:
            version: of the weights that it will update.
            position: of its prompts, in a run in which each iteration has one.
        """
        if self.in_order:
            self._order.go_to(position)
        self._iteration, self._version, self._position = iteration, version, position
        self._leave_out_stale()
        waited = False
        while True:
            self._ask()
            chosen = self._choose()
            if chosen is not None and (len(chosen) == self._quotas()[0] or not self._asks_more()):
                break
            waited = True
            self._sort(self._rollouts.poll(WAIT_S))
        numbers = {group.number for group in chosen}
        self._finished = [group for group in self._finished if group.number not in numbers]
        self._pace(waited)
        without, self._without_signal = self._without_signal, []
        if iteration == self._cfg.iterations - 1:
            without += self._left()
        if self._dynamic:
            # beyond the most prompts that an iteration may ask, groups without a signal are taken as they are
            without += [group for group in chosen if not group.teaches()]
            chosen = [group for group in chosen if group.teaches()]
        self._iteration, self._version = iteration + 1, version + 1
        return Batch(chosen, without)

    def keep_going(self, timeout_s: float, ask: bool = True) -> None:
        """What goes on while the trainer works: finished groups are taken over, further prompts are asked."""
        # an iteration whose prompts are those of its position asks them itself: another position may have fewer
        if ask and not self.in_order:
            self._ask()
        self._sort(self._rollouts.poll(timeout_s))

    def drain(self) -> None:
        """Let all come to its end that is being drawn."""
        while self._rollouts.drawing:
            self.keep_going(1.0, ask=False)

    def counts(self, batch: Batch) -> dict[str, float]:
        """Metrics: `prompts_asked`, `prompts_without_signal` with dynamic sampling; `in_flight` prompts beside a trainer."""
        found: dict[str, float] = {}
        if self._dynamic:
            found = {"prompts_asked": len(batch.asked), "prompts_without_signal": len(batch.without_signal)}
        return {**found, **({"in_flight": len(self.waiting)} if self._staleness else {})}

    def _quotas(self) -> list[int]:
        """Groups of the iterations from the next one on, as far as staleness looks ahead."""
        if self.in_order:
            return [self._order.size(self._position)]
        end = min(self._iteration + self._staleness + 1, self._cfg.iterations)
        return [self._order.size(at) for at in range(self._iteration, end)] or [0]

    def _room(self, enough: float | None = None) -> int:
        """Groups that may be asked now."""
        quotas = self._quotas()
        most = room(quotas, self._version, self._held, self._staleness)
        most = min(most, max(self._enough if enough is None else enough, quotas[0]))
        return int(most) - self._rollouts.num_under_way - len(self._finished)

    def _choose(self) -> list[Group] | None:
        """See `choose`."""
        quotas = self._quotas()
        # seen without a look at each group: this is asked as often as one of thousands is finished
        if self._rollouts.num_under_way and len(self._finished) < quotas[0]:
            return None
        return choose(self._finished, self._rollouts.under_way, quotas, self._version, self._staleness)

    def _asks_more(self) -> bool:
        """Whether an iteration that is not full may ask further ahead, and there is something to ask."""
        if not self._staleness or self._room(math.inf) <= 0:
            return False
        if len({group.prompt.row for group in self.waiting}) == len(self._prompts):
            return False
        self._enough += self._quotas()[0]
        return True

    def _ask(self) -> None:
        room = self._room()
        # who asks ahead, or refills, comes to prompts of the next epoch: none is asked while it waits, for two groups of one
        # prompt do not fit into an iteration, and one of them could become too old
        before = set() if self.in_order or room <= 0 else {group.prompt.row for group in self.waiting}
        for _ in range(room):
            if len(before) == len(self._prompts):
                if self._dynamic and not self._staleness:
                    self._say_all_asked()
                return
            ask = self._order.next(before)
            self._rollouts.ask(ask, self._prompts[ask.row], self._cfg.seed, self._held)
            if not self.in_order:
                before.add(ask.row)

    def _pace(self, waited: bool) -> None:
        """Ask further ahead where the trainer waited, and less far where another iteration is there already."""
        quota = self._quotas()[0]
        step = max(PACE * quota, 1.0)
        if waited:
            self._enough = min(self._enough + step, quota * (self._staleness + 1.0))
        elif len(self._finished) >= quota:
            self._enough = max(self._enough - step, float(quota))

    def _say_all_asked(self) -> None:
        if self._said:
            return
        self._said = True
        print(
            f"  iteration {self._iteration} has asked all {len(self._prompts)} prompts, {len(self._without_signal)} of them "
            "teach nothing: it learns from the others",
            file=sys.stderr,
        )

    def _sort(self, groups: list[Group]) -> None:
        """Finished groups go to those that wait for their iteration; those without a signal are set aside, and replaced."""
        most = (self._dynamic - 1) * self._quotas()[0]
        for group in groups:
            if self._cfg.truncated:
                group.rollouts = self._cfg.truncated.scored(group.rollouts)
            if self._dynamic and not group.teaches() and len(self._without_signal) < most:
                self._without_signal.append(group)
            else:
                self._finished.append(group)

    def _left(self) -> list[Group]:
        """After the last iteration: what it could not take."""
        left = self.waiting
        for group in left:
            group.leave_out(Unscored("left", "the run was over"))
        self._rollouts.cancel()
        self._finished = []
        return left

    def _leave_out_stale(self) -> None:
        """What would be learned from by weights too far ahead of it (a run that came to stand still) is not, and counted."""
        oldest = self._version - self._staleness
        why = Unscored("stale", f"asked more than {self._staleness} versions before the weights that would learn from it")
        for group in self._rollouts.under_way:
            if group.version < oldest:
                self._rollouts.cut(group, why)
        stale = [group for group in self._finished if group.version < oldest]
        self._finished = [group for group in self._finished if group.version >= oldest]
        for group in stale:
            group.leave_out(why)
        self._sort(stale)
