"""Profiles: shares by hand, and what real traces show of operators, of a late rank and of memory."""

from __future__ import annotations

import json
import re
import time

import pytest

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.trainer.watch.profile import Profile, Profiler, check_profile, peaks_of, shares_of
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


def test_waits_of_gloo_by_hand():
    """autograd's frame, 0-90, calls an exchange that gloo does in 20-80 on its thread; the operators compute in 0-20, 80-100."""
    events = [
        {"cat": "cpu_op", "name": "autograd::engine::evaluate_function", "ts": 0, "dur": 90, "tid": 1},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 0, "dur": 20, "tid": 1},
        {"cat": "cpu_op", "name": "c10d::allreduce_", "ts": 20, "dur": 5, "tid": 1},
        {"cat": "user_annotation", "name": "gloo:all_reduce", "ts": 20, "dur": 60, "tid": 2},
        {"cat": "user_annotation", "name": "FSDP::all_gather", "ts": 0, "dur": 100, "tid": 1},
        {"cat": "cpu_op", "name": "aten::mm", "ts": 80, "dur": 20, "tid": 1},
    ]
    found = shares_of(events, "cpu")
    assert found == pytest.approx({"seconds": 1e-4, "compute": 0.4, "communication": 0.6, "exposed": 0.6, "idle": 0.0})


def test_peaks_by_hand():
    """Each device by its name, the highest of its totals."""
    totals = [(0, -1, 5), (0, -1, 9), (1, 2, 70), (0, -1, 2), (1, 2, 30), (1, 3, 1)]
    events = [
        {"name": "[memory]", "args": {"Device Type": kind, "Device Id": number, "Total Allocated": total}}
        for kind, number, total in totals
    ]
    assert peaks_of([*events, {"name": "aten::mm", "args": {}}]) == {"cpu": 9, "cuda:2": 70, "cuda:3": 1}


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
    assert "Steps 1 to 2 on rank 1 (cpu)" in said and "aten::mm" in said
    names = [event["name"] for event in json.loads((tmp_path / "profile" / "rank-00001.json").read_text())["traceEvents"]]
    assert names.count("aten::mm") == 2
    assert any("allreduce" in name.lower().replace("_", "") for name in names)


def one_is_late(rank: int, world: int, at: str) -> None:
    import torch
    import torch.distributed as dist

    profiler = Profiler(Profile(steps=(0, 0), ranks=[0, 1], memory=False), rank, "cpu", Folder(at))
    dist.barrier()
    with profiler.step(0):
        made = torch.randn(200, 200) @ torch.randn(200, 200)
        time.sleep(0.8 * rank)
        dist.all_reduce(made)


def test_wait_for_a_late_rank_is_communication(tmp_path):
    on_ranks(2, one_is_late, str(tmp_path))
    waiting, late = (shares(tmp_path / "profile" / f"rank-{rank:05d}.md") for rank in range(2))
    assert waiting["communication"] > 50 and waiting["idle"] < 30
    assert late["communication"] < 30 and late["idle"] > 50
    for found in (waiting, late):
        assert found["compute"] + found["exposed"] + found["idle"] == pytest.approx(100, abs=2)
    said = (tmp_path / "profile" / "rank-00000.md").read_text()
    assert "Ranks wait for each other" in said and "Memory" not in said


def shares(at) -> dict[str, int]:
    """Percents that the words name."""
    found = re.search(r"compute (\d+)%, communication (\d+)% \((\d+)% .*idle (\d+)%", at.read_text())
    return dict(zip(("compute", "communication", "exposed", "idle"), map(int, found.groups()), strict=True))


def large_tensor(rank: int, world: int, at: str) -> None:
    import torch

    profiler = Profiler(Profile(steps=(0, 1)), rank, "cpu", Folder(at))
    for step in range(2):
        with profiler.step(step):
            # gone after each step: twice 64 MB are taken, but not held at once
            torch.zeros(16_000_000)


def test_memory_peak_of_a_large_tensor(tmp_path):
    on_ranks(1, large_tensor, str(tmp_path))
    said = (tmp_path / "profile" / "rank-00000.md").read_text()
    assert 64 <= float(re.search(r"Memory peaked at (\S+) MB on cpu", said)[1]) < 100
    assert "memory was taken by aten::empty (128.0 MB)" in said


def test_steps_are_in_order():
    with pytest.raises(ValueError, match=r"\[first, last\]"):
        Profile(steps=(3, 2))


@pytest.mark.parametrize("profile", [{"steps": (2, 12)}, {"steps": (2, 3), "ranks": [2]}])
def test_a_profile_that_would_never_be_written_is_refused(profile):
    with pytest.raises(ConfigError, match="are to be profiled"):
        check_profile(Profile(**profile), steps=12, world=2)
