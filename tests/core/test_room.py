"""Cluster capacity: what can never fit is refused, and a long wait is reported."""

from __future__ import annotations

import pytest

from raylm.core import room
from raylm.core.config import WorkerSpec
from raylm.core.room import Patience, asks, fits, refusal, shortage


@pytest.mark.parametrize(
    ("nodes", "kinds", "fit"),
    [
        ([4], [(1, 4)], True),
        ([4], [(1, 5)], False),
        # five cores in all, but no node with three
        ([2, 2, 1], [(3, 1)], False),
        ([2, 2], [(1, 3), (1, 1)], True),
        ([2, 2], [(1, 4), (1, 1)], False),
        # the generator must not lie on the only node that holds a rank of three
        ([2, 3], [(3, 1), (2, 1)], True),
        ([3, 2], [(2, 2), (1, 1)], True),
        ([3, 3], [(2, 2), (2, 1)], False),
        ([1], [(0.1, 10)], True),
        ([0], [], True),
    ],
)
def test_processes_are_on_one_node_each(nodes, kinds, fit):
    assert fits([{"CPU": float(has)} for has in nodes], [({"CPU": float(ask)}, count) for ask, count in kinds]) is fit


def test_cores_and_gpus_are_needed_on_the_same_node():
    assert not fits([{"CPU": 8.0}, {"GPU": 8.0}], [({"CPU": 1.0, "GPU": 1.0}, 1)])
    assert fits([{"CPU": 8.0}, {"CPU": 1.0, "GPU": 8.0}], [({"CPU": 1.0, "GPU": 1.0}, 1), ({"CPU": 4.0}, 2)])


def test_many_ranks_are_placed_in_no_time():
    assert fits([{"GPU": 8.0, "CPU": 64.0}] * 500, [({"GPU": 1.0, "CPU": 4.0}, 3999), ({"GPU": 1.0, "CPU": 8.0}, 1)])
    assert not fits([{"GPU": 8.0, "CPU": 64.0}] * 500, [({"GPU": 1.0, "CPU": 4.0}, 4000), ({"GPU": 1.0, "CPU": 8.0}, 1)])


def test_what_asks_for_nothing_is_no_bundle():
    assert asks(WorkerSpec(cpus=0)) == {}
    assert asks(WorkerSpec(cpus=2, gpus=0.5)) == {"CPU": 2, "GPU": 0.5}


@pytest.mark.ray
def test_refusals_and_waits_name_what_is_requested_and_what_there_is(workers, capsys, monkeypatch):
    import ray

    workers.ensure()
    has = int(ray.cluster_resources()["CPU"])
    assert refusal({"ranks": WorkerSpec(count=has - 1), "generator": WorkerSpec()}, "policy") is None
    said = str(refusal({"ranks": WorkerSpec(count=has), "generator": WorkerSpec()}, "policy"))
    assert f"policy asks for {has + 1} CPU at once ({has} ranks, 1 generator), the whole cluster has {has}" in said
    assert "asks for 1 GPU at once (1 ranks), the whole cluster has 0" in str(refusal({"ranks": WorkerSpec(gpus=1)}, "policy"))
    parts = {"ranks": WorkerSpec(count=2), "generator": WorkerSpec()}
    assert shortage(parts).startswith("waits for 3 CPUs (2 ranks, 1 generator): ")
    assert shortage(parts).endswith(f" of {has} CPU free")
    monkeypatch.setattr(room, "SAY_S", 0.0)
    patience = Patience("policy")
    patience.look(parts)
    patience.look(parts)
    assert capsys.readouterr().err.count("policy waits for 3 CPUs") == 2
    monkeypatch.setattr(room, "SAY_S", 1000.0)
    patience.again()
    patience.look(parts)
    assert not capsys.readouterr().err
