"""Who holds a shared cluster, in words."""

from __future__ import annotations

from raylm.core.holders import _add, in_words


def test_the_largest_holder_comes_first_and_few_are_named():
    held = {
        "raylm-data-1": {"CPU": 12.0, "GPU": 0.0},
        "raylm-sft-2": {"CPU": 6.0, "GPU": 2.0},
        "raylm-x-1": {"CPU": 1.0, "GPU": 0.0},
        "raylm-y-1": {"CPU": 0.5, "GPU": 0.0},
    }
    assert in_words(held) == "held by raylm-sft-2 (6 CPU, 2 GPU), raylm-data-1 (12 CPU), raylm-x-1 (1 CPU) and 1 more"
    assert in_words({}) == ""


def test_what_lies_in_a_placement_group_is_not_counted_twice():
    held: dict[str, dict[str, float]] = {}
    _add(held, "1", {"CPU": 2.0})
    _add(held, "1", {"CPU_group_0_abc": 2.0, "CPU_group_abc": 2.0})
    _add(held, "2", {"memory": 5.0})
    assert held == {"1": {"CPU": 2.0, "GPU": 0.0}}
