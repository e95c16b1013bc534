"""Takes profiled steps, proves shares by hand and what a real trace of two ranks says."""

from __future__ import annotations

import json

import pytest

from raylm.core.storage import Folder
from raylm.train.watch.profile import Profile, Profiler, shares_of
from tests.parallel.on_ranks import on_ranks


def test_shares_by_hand():
    """0-40 compute, 30-60 exchange, 60-80 nothing, 80-100 compute: of the exchange 20 is not covered."""
    events = [
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 40},
        {"cat": "cpu_op", "name": "c10d::allreduce_", "ts": 30, "dur": 30},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 80, "dur": 20},
        {"cat": "cpu_op", "name": "aten::add", "ts": 85, "dur": 10},
        {"cat": "other", "name": "aten::mm", "ts": 0, "dur": 1000},
    ]
    found = shares_of(events, "cpu")
    assert found == pytest.approx({"seconds": 1e-4, "compute": 0.6, "communication": 0.3, "exposed": 0.2, "idle": 0.2})


def profiled(rank: int, world: int, at: str) -> None:
    import torch
    import torch.distributed as dist

    profiler = Profiler(Profile(steps=(1, 2), ranks=[1]), rank, "cpu", Folder(at))
    for step in range(4):
        with profiler.step(step):
            made = torch.randn(200, 200) @ torch.randn(200, 200)
            dist.all_reduce(made)


def test_two_ranks_of_which_one_is_looked_at(tmp_path):
    on_ranks(2, profiled, str(tmp_path))
    assert sorted(path.name for path in (tmp_path / "profile").iterdir()) == ["rank-00001.json", "rank-00001.md"]
    said = (tmp_path / "profile" / "rank-00001.md").read_text()
    assert "Steps 1 to 2 on rank 1 (cpu)" in said and "aten::mm" in said and "communication" in said
    names = [event["name"] for event in json.loads((tmp_path / "profile" / "rank-00001.json").read_text())["traceEvents"]]
    assert names.count("aten::mm") == 2
    assert any("allreduce" in name.lower().replace("_", "") for name in names)


def test_steps_are_in_order():
    with pytest.raises(ValueError, match=r"\[first, last\]"):
        Profile(steps=(3, 2))
