"""Handling of loss and gradient norm spikes: accept, skip, roll back or stop, and the position in the data.

    loss, norm --robust z over the last good steps--> spike?  skip --patience--> rollback --rollbacks--> stop
    position(step) = step + offset; every decision is on file before it is carried out, so that no restart forgets it

The median and the median absolute deviation do not move with the outlier that they are to find
(https://en.wikipedia.org/wiki/Median_absolute_deviation); skipping the data of a spike is PaLM's remedy
(https://arxiv.org/abs/2204.02311, section 5.1).
"""

from __future__ import annotations

import itertools
import math
import statistics
from collections import deque
from typing import Any, Literal

from pydantic import Field

from raylm.core.config import Config
from raylm.core.storage import Folder

DECISIONS = "decisions.json"
_NORMAL = 1.4826
"""Median absolute deviations in a standard deviation of a normal distribution."""
_NARROW = 0.01
"""Share of the median that counts as scatter where there is less: losses of a run that stands still differ by nothing."""


class Spikes(Config):
    """What is done about a loss or gradient norm far above those of the last steps, or not finite, before it moves weights."""

    loss_z: float = Field(default=8.0, gt=0)
    """Robust z-score of the loss from which a batch is a spike; not read by `rl`, where a loss of about 0 has no scale."""
    norm_z: float = Field(default=16.0, gt=0)
    """Robust z-score of the gradient norm from which a batch is a spike."""
    window: int = Field(default=128, gt=1)
    """Number of last good steps that say what is usual."""
    warmup: int = Field(default=32, gt=1)
    """Good steps before the first judgement; until then only what is not finite is a spike."""
    patience: int = Field(default=3, gt=0)
    """Batches skipped within `window` batches, after which skipping has not helped."""
    rollbacks: int = Field(default=2, ge=0)
    """Times that training goes back to the newest step checkpoint and passes over the data since, before it stops."""
    action: Literal["skip", "rollback", "stop"] = "rollback"
    """`skip` stops where `rollback` would go back; `stop` stops at the first spike."""


class SpikeHandler:
    """Which batch each step gets, after all that was decided; a pure function of the decisions.

    Args:
        card: None: every batch is taken, and the data's position is the step.
        work: where the decisions are kept.
        judges_loss: else a loss is a spike only where it is not finite.
    """

    def __init__(self, card: Spikes | None, work: Folder, rank: int, judges_loss: bool = True) -> None:
        self._card, self._work, self._rank, self._judges_loss = card, work, rank, judges_loss
        self.decisions: list[dict[str, Any]] = []
        window = card.window if card else 1
        self._losses: deque[float] = deque(maxlen=window)
        self._norms: deque[float] = deque(maxlen=window)
        self._judged = (0.0, 0.0, 0.0, 0.0)

    def position(self, step: int) -> int:
        """Number of the batch that `step` reads."""
        return position_of(self.decisions, step)

    def passed(self) -> list[int]:
        """Batches that no step reads any more."""
        jumps = _jumps(self.decisions)
        return [
            position for (_, before), (at, offset) in itertools.pairwise(jumps) for position in range(at + before, at + offset)
        ]

    def takes(self, loss: float, norm: float) -> bool:
        """Whether this batch moves the weights; if so it is one of those that say what is usual."""
        assert self._card is not None
        loss, norm = (value if math.isfinite(value) else math.inf for value in (loss, norm))
        judged = len(self._losses) >= self._card.warmup
        of_loss = _robust_z(loss, self._losses) if (judged and self._judges_loss) or loss == math.inf else 0.0
        of_norm = _robust_z(norm, self._norms) if judged or norm == math.inf else 0.0
        self._judged = (loss, norm, of_loss, of_norm)
        if of_loss > self._card.loss_z or of_norm > self._card.norm_z:
            return False
        self._losses.append(loss)
        self._norms.append(norm)
        return True

    def decide(self, step: int, newest: int, rows: list[int], documents: list[str]) -> dict[str, Any]:
        """What follows from the batch that was not taken; on file when this returns. Equal on all ranks but for `documents`.

        Args:
            newest: step of the newest checkpoint; 0: there is none to go back to.
            rows: rows of the batch.
        """
        assert self._card is not None
        position = self.position(step)
        loss, norm, of_loss, of_norm = self._judged
        what = self._next(position, newest)
        to = newest if what == "rollback" else step
        decision: dict[str, Any] = {
            "what": what,
            "step": step,
            "position": position,
            "to": to,
            "offset": position + 1 - to,
            "loss": _plain(loss),
            "grad_norm": _plain(norm),
            "loss_z": _plain(of_loss),
            "norm_z": _plain(of_norm),
            "rows": rows,
            "documents": documents,
        }
        self.decisions.append(decision)
        if self._rank == 0:
            self._work.write_json(DECISIONS, self.decisions)
        return decision

    def state(self) -> dict[str, Any]:
        """What a step checkpoint keeps."""
        return {"decisions": list(self.decisions), "losses": list(self._losses), "norms": list(self._norms)}

    def restore(self, state: dict[str, Any] | None, group: Any) -> None:
        """Go on from what a checkpoint kept (None: from the start) and from what was decided since. Every rank must call."""
        import torch.distributed as dist

        # without a card too: a run that was begun with one goes on where the data stands
        known = state or {"decisions": [], "losses": [], "norms": []}
        found: list[Any] = [known["decisions"]]
        if self._rank == 0 and self._work.exists(DECISIONS):
            found = [max(known["decisions"], self._work.read_json(DECISIONS), key=len)]
        if group is not None:
            dist.broadcast_object_list(found, src=0, group=group)
        self.decisions = found[0]
        self._losses = deque(known["losses"], maxlen=self._losses.maxlen)
        self._norms = deque(known["norms"], maxlen=self._norms.maxlen)

    def _next(self, position: int, newest: int) -> str:
        """The backend of the ladder on which a spike at `position` stands."""
        assert self._card is not None
        if self._card.action == "stop":
            return "stop"
        # what was skipped before a rollback has been paid for by it
        back = max((at for at, each in enumerate(self.decisions) if each["what"] == "rollback"), default=-1)
        since = [each["position"] for each in self.decisions[back + 1 :] if each["what"] == "skip"]
        if sum(position - each < self._card.window for each in since) < self._card.patience:
            return "skip"
        spent = sum(each["what"] == "rollback" for each in self.decisions)
        back_to = newest if self._card.action == "rollback" and spent < self._card.rollbacks else 0
        return "rollback" if back_to else "stop"


def position_of(decisions: list[dict[str, Any]], step: int) -> int:
    """Number of the batch that `step` reads, after these decisions."""
    return step + next(offset for at, offset in reversed(_jumps(decisions)) if at <= step)


def _jumps(decisions: list[dict[str, Any]]) -> list[tuple[int, int]]:
    """(step, offset from there on), by step: a decision undoes the ones about later steps than its own."""
    jumps = [(0, 0)]
    for each in decisions:
        if each["what"] != "stop":
            jumps = [jump for jump in jumps if jump[0] < each["to"]] + [(each["to"], each["offset"])]
    return jumps if jumps[0] == (0, 0) else [(0, 0), *jumps]


def in_words(decision: dict[str, Any]) -> str:
    """One line for people: what was done, why, and whose batch it was."""
    loss, norm = (f"{decision[name]:.4g} (z {decision[z]:.3g})" for name, z in (("loss", "loss_z"), ("grad_norm", "norm_z")))
    then = {
        "skip": f"batch {decision['position']} is skipped",
        "rollback": f"back to step {decision['to']}, on with batch {decision['position'] + 1}",
        "stop": "training stops",
    }[decision["what"]]
    names = [*decision["documents"], *(f"row {row}" for row in decision["rows"])][:4]
    return f"spike at step {decision['step']}: loss {loss}, gradient norm {norm}; {then} ({', '.join(names)} ...)"


def _robust_z(value: float, usual: deque[float]) -> float:
    """Distance of `value` above the median of `usual` in robust standard deviations."""
    if not math.isfinite(value):
        return math.inf
    middle = statistics.median(usual)
    scatter = _NORMAL * statistics.median(abs(each - middle) for each in usual)
    return (value - middle) / max(scatter, _NARROW * abs(middle), 1e-12)


def _plain(value: float) -> float:
    # JSON has no infinity: the largest float stands for it
    return min(value, 1.7976931348623157e308)
