"""Ray Tune and the process that trains: values come in the order of the seed, the worse are stopped, failures end no other."""

from __future__ import annotations

import pytest

from raylm.sweep.ranges import read
from raylm.sweep.trials import Search, TrialStopped, run_trials

pytestmark = pytest.mark.ray


def search(*words: str, samples: int = 1, grace: int | None = 1, drawn: bool = False) -> Search:
    space = {each.key: each.space(drawn) for each in read(list(words))}
    return Search(space, samples, metric="loss", mode="min", steps=8, grace=grace, reduction=2, seed=3)


def test_worse_trials_are_stopped_and_failed_ones_counted(workers):
    workers.ensure()
    ended = {}

    def train(values, heard):
        level = values["level"]
        for step in range(1, 8):
            if level == 0.9 and step == 2:
                ended[level] = "failed"
                return "it broke"
            try:
                heard({"loss": level / step, "step": step} if step % 2 else None)
            except TrialStopped:
                ended[level] = f"stopped at {step}"
                raise
        ended[level] = "done"
        return ""

    run_trials(search("level=1,2,0.9,3,0.5"), train)
    # rungs at 1, 2 and 4 steps; of two that reach one the better goes on
    assert ended == {1: "done", 2: "stopped at 1", 0.9: "failed", 3: "stopped at 1", 0.5: "done"}


def test_equal_seeds_draw_equal_values_and_a_broken_sweep_ends(workers):
    workers.ensure()
    asked = search("lr=1e-4..1e-2", "rank=2,4,8", samples=3, grace=None, drawn=True)
    first, again = [], []

    def train(values, heard):
        first.append(values)
        heard({"loss": 1.0, "step": 1})
        if len(first) == 2:
            raise KeyboardInterrupt
        return ""

    with pytest.raises(KeyboardInterrupt):
        run_trials(asked, train)

    def whole(values, heard):
        again.append(values)
        heard({"loss": 1.0, "step": 1})
        return ""

    run_trials(asked, whole)
    assert len(first) == 2 and len(again) == 3 and again[:2] == first
    assert len({values["lr"] for values in again}) == 3
