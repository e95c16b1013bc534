"""Are comparisons of models true? Simulated pairs of models whose difference is known, judged by raylm and by lm-eval's script.

Two models answer the same items: whether one is answered right depends on the item (shared by both) and on luck (not shared), a
Gaussian copula with correlation RHO, so that two models of one family are right on mostly the same items.

coverage       1,000 pairs per kind: how often the 95 % interval holds the true difference (or share)
detections     5 points on 200 items: pairs that are called different at 5 %
false alarms   20 tasks, no difference anywhere: pairs of models of which any task is called different

lm-eval's comparison (`scripts/model_comparator.py`, https://github.com/EleutherAI/lm-evaluation-harness) is not packaged: its
`calculate_z_value`, (acc1 - acc2) / sqrt(stderr1^2 + stderr2^2) against the normal distribution, is written here by its formula;
the standard errors are those of the installed package (`lm_eval.api.metrics.mean_stderr`), as its results hold them.
"""

from __future__ import annotations

import json
import math
import time
from statistics import NormalDist
from typing import Any

import numpy as np

from raylm.evaluate.comparison import Column, compare, difference
from raylm.evaluate.instances import Graded

PAIRS = 1000
ITEMS = 200
TASKS, TASK_ITEMS = 20, 100
SHARE, GAIN = 0.60, 0.05
RHO = 0.8
RHOS = (0.8, 0.9, 0.95)
"""Detections are told for each of these; the goal is held against that of RHO, where models of one family are least alike."""
NORMAL = NormalDist()


def answers(rng: np.random.Generator, shares: tuple[float, float], count: int, rho: float) -> np.ndarray:
    """Right or wrong of two models on the same items, [2, count]; each is right with its share in the long run."""
    item, luck = rng.normal(size=count), rng.normal(size=(2, count))
    able = math.sqrt(rho) * item + math.sqrt(1 - rho) * luck
    return (able < np.array([[NORMAL.inv_cdf(share)] for share in shares])).astype(float)


def graded(right: np.ndarray, task: str = "") -> list[Graded]:
    """As a task gives them."""
    return [Graded(f"{task}{at}", {"answers": hit}, {"answers": 1.0}) for at, hit in enumerate(right.tolist())]


def lm_eval_p(first: np.ndarray, second: np.ndarray) -> float:
    """p-value of lm-eval's script."""
    from lm_eval.api.metrics import mean_stderr

    errors = mean_stderr(first.tolist()), mean_stderr(second.tolist())
    spread = math.sqrt(errors[0] ** 2 + errors[1] ** 2)
    return 2 * (1 - NORMAL.cdf(abs(first.mean() - second.mean()) / spread)) if spread else 1.0


def coverage(rng: np.random.Generator) -> dict[str, float]:
    """Share of intervals that hold the truth, for each kind of metric."""
    held: dict[str, list[bool]] = {}

    def note(kind: str, low: float, true: float, high: float) -> None:
        held.setdefault(kind, []).append(low <= true <= high)

    for _ in range(PAIRS):
        share, gain, rho = rng.uniform(0.3, 0.8), rng.choice([0.0, 0.02, 0.05, 0.1]), rng.choice(RHOS)
        first, second = answers(rng, (share, share + gain), ITEMS, float(rho))
        made: Any = difference(graded(first), graded(second), "answers", "high")
        note("difference of shares", made.low, gain, made.high)
        one = Column.of(graded(first), "answers").interval()
        note("one share", one.low, share, one.high)
        # nats of dialogues of unequal length, of two models that find the same ones hard; 40 documents of five each
        tokens = rng.integers(5, 60, ITEMS).astype(float)
        hard, shift = np.repeat(rng.normal(0, 0.5, ITEMS // 5), 5), rng.choice([0.0, -0.05, -0.2])
        losses = [(2.0 + hard + change + rng.normal(0, 0.3, ITEMS)) * tokens for change in (0.0, float(shift))]
        sides = [
            [
                Graded(str(at), {"loss": nats}, {"loss": weight}, {"cluster": str(at // 5)})
                for at, (nats, weight) in enumerate(zip(loss.tolist(), tokens.tolist(), strict=True))
            ]
            for loss in losses
        ]
        made = difference(sides[0], sides[1], "loss", "low")
        note("difference of losses, documents of five", made.low, float(shift), made.high)
        one = Column.of(sides[0], "loss").interval()
        note("one loss, documents of five", one.low, 2.0, one.high)
    return {kind: round(float(np.mean(found)), 4) for kind, found in held.items()}


def detections(rng: np.random.Generator, rho: float) -> dict[str, float]:
    """Pairs that are called different; and the share of items on which the two models differ."""
    ours = theirs = 0
    differs = 0.0
    for _ in range(PAIRS):
        first, second = answers(rng, (SHARE, SHARE + GAIN), ITEMS, rho)
        (made,) = compare({"a": {"t": graded(first)}, "b": {"t": graded(second)}}, {"t": {"answers": "high"}})
        ours += made.winner == "b"
        theirs += int(lm_eval_p(first, second) <= 0.05 and second.mean() > first.mean())
        differs += float((first != second).mean()) / PAIRS
    return {"ours": ours / PAIRS, "theirs": theirs / PAIRS, "items_that_differ": round(differs, 3)}


def false_alarms(rng: np.random.Generator) -> dict[str, float]:
    """Pairs of equal models of which any of 20 tasks is called different."""
    ours = theirs = 0
    better = {f"t{task}": {"answers": "high"} for task in range(TASKS)}
    for _ in range(PAIRS):
        both = [answers(rng, (share, share), TASK_ITEMS, RHO) for share in rng.uniform(0.3, 0.8, TASKS).tolist()]
        models = {
            name: {task: graded(pair[side]) for task, pair in zip(better, both, strict=True)} for side, name in enumerate("ab")
        }
        ours += any(one.winner for one in compare(models, better))
        theirs += any(lm_eval_p(pair[0], pair[1]) <= 0.05 for pair in both)
    return {"ours": ours / PAIRS, "theirs": theirs / PAIRS}


def main() -> None:
    from importlib.metadata import version

    began, rng = time.monotonic(), np.random.default_rng(0)
    covered = coverage(rng)
    print(f"coverage of 95 % intervals: {covered}", flush=True)
    found = {rho: detections(rng, rho) for rho in RHOS}
    for rho, each in found.items():
        print(f"{GAIN:.0%} on {ITEMS} items, correlation {rho}: {each}", flush=True)
    alarms = false_alarms(rng)
    print(f"any false alarm over {TASKS} tasks: {alarms}", flush=True)
    ours, theirs = found[RHO]["ours"], found[RHO]["theirs"]
    ratio = ours / max(theirs, 1 / PAIRS)
    true = all(0.93 <= share <= 0.97 for share in covered.values()) and alarms["ours"] <= 0.05
    print(
        json.dumps(
            {
                "name": "eval_truth",
                "peer": "lm-eval scripts/model_comparator.py",
                "peer_version": version("lm_eval"),
                "ours": ours,
                "theirs": theirs,
                "unit": f"share of pairs found, {100 * GAIN:g} points on {ITEMS} items",
                "ratio": round(ratio, 2),
                "goal": 2.0,
                "by_correlation": {str(rho): each for rho, each in found.items()},
                "quality": {"coverage": covered, "false_alarms_over_20_tasks": alarms},
                "seconds": round(time.monotonic() - began, 1),
                "ok": ratio >= 2.0 and true,
            }
        )
    )


if __name__ == "__main__":
    main()
