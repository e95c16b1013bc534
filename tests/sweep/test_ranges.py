"""Ranges of a sweep as they are written."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.sweep.ranges import Range, num_trials, read


def test_choices_and_ranges():
    found = read(
        ["optimizer.lr=1e-4..1e-2", "adapter.rank=4,16", "kind=fsdp,ddp", "batch=2..9", "optimizer={lr = 1.0, clip = 2}"]
    )
    assert found == [
        Range("optimizer.lr", [], 1e-4, 1e-2),
        Range("adapter.rank", [4, 16]),
        Range("kind", ["fsdp", "ddp"]),
        Range("batch", [], 2, 9, whole=True),
        Range("optimizer", [{"lr": 1.0, "clip": 2}]),
    ]


def test_a_grid_is_run_whole_and_ranges_are_drawn():
    assert num_trials(read(["a=1,2,3", "b=4,5"]), None) == (6, False)
    assert num_trials(read(["a=1,2,3", "b=4,5"]), 4) == (4, True)
    assert num_trials(read(["a=1,2,3", "b=0.1..5"]), None) == (8, True)


def test_what_is_drawn_lies_inside():
    for word, log in (("a=1e-4..1e-2", True), ("a=0.5..1.0", False), ("a=2..4", False)):
        (each,) = read([word])
        values = [each.space(True).sample() for _ in range(200)]
        assert min(values) >= each.low and max(values) <= each.high
        # the middle of a logarithm is its geometric mean
        assert (sum(value < 1e-3 for value in values) > 60) == log
    assert {read(["a=2..4"])[0].space(True).sample() for _ in range(99)} == {2, 3, 4}


@pytest.mark.parametrize("words", [["a"], ["a="], ["a=1..x"], ["a=2..1"], ["a=1,2", "a=3"], ["a=true..false"]])
def test_what_is_no_range_is_refused(words):
    with pytest.raises(ConfigError):
        read(words)
