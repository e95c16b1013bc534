"""Alerts: problems of a run found in its metrics, reported once each, and to a URL on request."""

from __future__ import annotations

import http.client
import json
import math
import statistics
import urllib.request
from collections import Counter, deque
from typing import Any, NamedTuple

from pydantic import Field

from raylm.core.config import Config

SEEN = 50
FEW, SOME = 10, 20
"""Iterations of RL whose medians are compared, of lengths and of rewards: a hundred of them are a long run."""
WAIT_S = 5.0


class Alert(NamedTuple):
    """One thing that is wrong."""

    step: int
    kind: str
    said: str


class Alerts(Config):
    """Limits beyond which a run is reported; nothing is changed by it (`spikes` does that)."""

    spike: float = Field(default=8.0, gt=0)
    """A loss this many robust standard deviations above the median of the last 50."""
    divergence: float = Field(default=0.5, gt=0)
    """The median loss of 50 steps lies this share above the lowest median before; of RL: that of 20 iterations' reward below the
    highest one."""
    straggler: float = Field(default=1.5, gt=1)
    """The slowest rank takes this many times as long before it meets the others as the fastest."""
    straggler_steps: int = Field(default=20, gt=0)
    """Steps in a row that the same rank is a straggler before it is reported; shorter times are counted, and told at the end."""
    data_wait: float = Field(default=0.3, gt=0, lt=1)
    """Share of a step spent waiting for rows."""
    mismatch_kl: float = Field(default=0.1, gt=0)
    """KL of generator and trainer in RL: more says that they hold different weights, or compute them differently."""
    kl: float = Field(default=1.0, gt=0)
    """KL of policy and reference in RL, in nats per token."""
    entropy: float = Field(default=0.1, gt=0, lt=1)
    """The median entropy of 10 iterations lies below this share of the first ones': the policy draws the same again and again."""
    length: float = Field(default=3.0, gt=1)
    """The median length of completions over 10 iterations is this many times that of the first ones."""
    cut: float = Field(default=0.5, gt=0, lt=1)
    """Share of completions that are cut at a limit, over 10 iterations, where fewer were at first."""
    webhook: str | None = None
    """URL that gets each alert as JSON: {"run", "step", "kind", "text"} (the text is also what Slack shows)."""


class Alarm:
    """The state of one run. `look` is called with every row."""

    def __init__(self, limits: Alerts, run: str) -> None:
        self._limits, self._run = limits, run
        self._losses: deque[float] = deque(maxlen=SEEN)
        self._lowest: float | None = None
        self._rewards: deque[float] = deque(maxlen=SOME)
        self._highest: float | None = None
        self._recent: dict[str, deque[float]] = {}
        self._first: dict[str, float] = {}
        self._open: set[str] = set()
        self._slow: Counter[int] = Counter()
        self._in_a_row, self._slowest, self._rank, self._steps = 0, 1.0, -1, 0
        self.raised: list[Alert] = []

    def look(self, step: int, row: dict[str, Any]) -> list[Alert]:
        """What is new in this row. A condition that lasts is raised once, and again after it has ended."""
        found = dict(self._checks(row))
        new = [Alert(step, kind, said) for kind, said in found.items() if kind not in self._open]
        self._open = set(found)
        self.raised += new
        for alert in new:
            self._send(alert)
        return new

    def _checks(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        found, loss, limits = self._policy(row), row.get("loss"), self._limits
        # the loss of a policy stays near 0, whatever becomes of it
        if isinstance(loss, float) and loss == loss and "reward" not in row:
            if len(self._losses) == SEEN:
                middle = statistics.median(self._losses)
                spread = 1.4826 * statistics.median(abs(each - middle) for each in self._losses) + 1e-6
                if (far := (loss - middle) / spread) > limits.spike:
                    found.append(("spike", f"loss {loss:.4g} is {far:.0f} deviations above the last {SEEN} steps' {middle:.4g}: "
                                           "look at the rows of this step"))  # fmt: skip
                if self._lowest is not None and middle > self._lowest * (1 + limits.divergence):
                    found.append(("divergence", f"loss is {middle:.4g}, it was {self._lowest:.4g}: lower optimizer.lr"))
                self._lowest = middle if self._lowest is None else min(self._lowest, middle)
            self._losses.append(loss)
        if row.get("finite") is False:
            found.append(("not finite", f"gradient norm {row.get('grad_norm')}: the step was not taken"))
        if slow := self._persistent_straggler(row):
            found.append(("straggler", slow))
        if (waited := row.get("data_wait_s", 0.0) / max(row.get("step_s", 1.0), 1e-9)) > limits.data_wait:
            found.append(("data wait", f"{waited:.0%} of the step is spent waiting for rows: are they on a slow disk?"))
        return found

    def _policy(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        """What is wrong with an iteration of RL."""
        found, limits = [], self._limits
        # NaN is above every limit
        if not (apart := row.get("mismatch_kl", 0.0)) <= limits.mismatch_kl:
            found.append(("mismatch", f"KL of generator and trainer is {apart:.3g}: do both hold the same weights?"))
        if "completion_tokens" not in row:
            return found + self._reward(row)
        if not (apart := row.get("kl", 0.0)) <= limits.kl:
            found.append(("kl", f"KL of policy and reference is {apart:.3g}: lower optimizer.lr, or raise the weight of the KL"))
        # mean -log p of what was drawn is an estimate of it, where it is not computed itself
        entropy, before = self._moved("entropy" if "entropy" in row else "nll", row)
        if before > 0 and entropy < limits.entropy * before:
            found.append(("entropy", f"entropy is {entropy:.3g}, it was {before:.3g}: the policy draws the same again and again"))
        length, before = self._moved("completion_tokens", row)
        if before > 0 and length > limits.length * before:
            found.append(
                ("length", f"completions have {length:.0f} tokens, they had {before:.0f}: does the reward pay for length?")
            )
        cut, before = self._moved("cut_share", row)
        if cut > limits.cut > before:
            found.append(("cut", f"{cut:.0%} of the completions are cut, {before:.0%} were at first: raise max_tokens?"))
        return found + self._reward(row)

    def _reward(self, row: dict[str, Any]) -> list[tuple[str, str]]:
        """A reward that falls."""
        found, limits = [], self._limits
        if "reward" not in row:
            return found
        self._rewards.append(row["reward"])
        if len(self._rewards) == SOME:
            middle = statistics.median(self._rewards)
            if self._highest is not None and middle < self._highest - limits.divergence * abs(self._highest):
                found.append(("collapse", f"reward is {middle:.4g}, it was {self._highest:.4g}: lower optimizer.lr"))
            self._highest = middle if self._highest is None else max(self._highest, middle)
        return found

    def _moved(self, name: str, row: dict[str, Any]) -> tuple[float, float]:
        """Median of the last few iterations and of the first ones; what is no number, as of an iteration that teaches nothing,
        counts as the value before it."""
        value = row.get(name)
        if isinstance(value, (int, float)) and math.isfinite(value):
            recent = self._recent.setdefault(name, deque(maxlen=FEW))
            recent.append(float(value))
            if len(recent) == FEW:
                self._first.setdefault(name, statistics.median(recent))
        if name not in self._first:
            return 0.0, 0.0
        return statistics.median(self._recent[name]), self._first[name]

    def end(self) -> list[Alert]:
        """What was counted over the run, when it is over."""
        if not self._slow:
            return []
        ranks = ", ".join(f"rank {rank} in {count}" for rank, count in self._slow.most_common(3))
        said = (
            f"{self._slow.total()} of {self._steps} steps waited for a slow rank ({ranks}; at most {self._slowest:.1f} times as "
            "long as the fastest): is something else at work on its machine?"
        )
        alert = Alert(self._steps, "stragglers", said)
        self.raised.append(alert)
        return [alert]

    def _persistent_straggler(self, row: dict[str, Any]) -> str | None:
        """In words, where the same rank has been slow for long enough; every slow step is counted."""
        slow, rank = row.get("straggler", 1.0), row.get("slowest_rank", -1)
        self._steps += 1
        if slow <= self._limits.straggler:
            self._in_a_row = 0
            return None
        self._slow[rank] += 1
        self._slowest = max(self._slowest, slow)
        self._in_a_row, self._rank = self._in_a_row + 1 if rank == self._rank else 1, rank
        if self._in_a_row < self._limits.straggler_steps:
            return None
        return f"rank {rank} takes {slow:.1f} times as long as the fastest, for {self._in_a_row} steps now"

    def _send(self, alert: Alert) -> None:
        if not self._limits.webhook:
            return
        body = {"run": self._run, "step": alert.step, "kind": alert.kind, "text": f"{self._run}, step {alert.step}: {alert.said}"}
        try:
            request = urllib.request.Request(
                self._limits.webhook, json.dumps(body).encode(), {"Content-Type": "application/json"}, method="POST"
            )
            urllib.request.urlopen(request, timeout=WAIT_S).close()
        except (OSError, ValueError, http.client.HTTPException) as cause:
            # an alert that cannot be sent is still told here, and must not end the run it warns of
            self.raised.append(Alert(alert.step, "webhook", f"{self._limits.webhook} does not take alerts: {cause}"))
