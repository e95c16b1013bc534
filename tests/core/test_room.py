"""Cluster capacity: what can never fit is refused, and a long wait is reported."""

from __future__ import annotations

import pytest

from raylm.core import coming, room
from raylm.core.coming import NodeGroup, node_group
from raylm.core.config import Role
from raylm.core.errors import ConfigError
from raylm.core.room import Node, Patience, asks, fits, peak, phases, refusal, shortage, total
from raylm.evaluate.config import Evaluate
from raylm.rl.config import RL
from raylm.serve.config import Serve


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
    assert asks(Role(cpus=0)) == {}
    assert asks(Role(cpus=2, gpus=0.5)) == {"CPU": 2, "GPU": 0.5}


@pytest.mark.ray
def test_refusals_and_waits_name_what_is_requested_and_what_there_is(workers, capsys, monkeypatch):
    import ray

    workers.ensure()
    has = int(ray.cluster_resources()["CPU"])
    assert refusal({"ranks": Role(count=has - 1), "generator": Role()}, "policy") is None
    said = str(refusal({"ranks": Role(count=has), "generator": Role()}, "policy"))
    assert f"policy asks for {has + 1} CPU at once ({has} ranks, 1 generator), the whole cluster has {has}" in said
    assert "asks for 1 GPU at once (1 ranks), the whole cluster has 0" in str(refusal({"ranks": Role(gpus=1)}, "policy"))
    parts = {"ranks": Role(count=2), "generator": Role()}
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


ROLES = {
    "ranks": Role(count=4, least=2, gpus=1),
    "generator": Role(gpus=1, colocate_with="ranks"),
    "workers": Role(count=3, phase=1),
    "replicas": Role(count=8, cpus=0.5, phase=1),
}


def test_roles_of_a_phase_are_there_together_and_colocated_ones_ask_for_nothing():
    first, second = phases(ROLES)
    assert list(first) == ["ranks", "generator"] and list(second) == ["workers", "replicas"]
    assert first["ranks"].count == 2, "the fewest with which it can begin"
    assert asks(first["generator"]) == {}
    assert peak(ROLES) == {"CPU": 7.0, "GPU": 4.0} and total(ROLES) == 11.0


def test_every_stage_says_its_roles():
    rl = RL(stage="rl", prompts="p", model="m", rewards=[{"kind": "answer"}], iterations=1, generator={"count": 2, "gpus": 1})
    assert {name: (role.count, role.gpus) for name, role in rl.roles().items()} == {
        "ranks": (1, 0.0), "generator": (2, 1.0), "rewards": (2, 0.0),
    }  # fmt: skip
    asked = Evaluate(stage="evaluate", models=["m"], tasks=[{"kind": "preference", "rows": "r"}])
    assert [list(together) for together in phases(asked.roles())] == [["workers"], ["generator"]]
    served = Serve(model="m", replicas={"min": 0, "max": 3}, workers={"cpus": 2, "nodes": 3})
    assert served.roles() == {"replicas": Role(count=3, least=1, cpus=2, nodes=3)}


@pytest.mark.ray
def test_machines_that_are_not_there_are_asked_for_in_vain(workers):
    workers.ensure()
    said = str(refusal({"ranks": Role(count=2, nodes=2)}, "base"))
    assert "base asks for 2 machines for its ranks, 1 of this cluster could hold one of them" in said


def test_what_may_come_is_no_refusal_and_what_never_can_is(workers):
    workers.ensure()
    roles = {"ranks": Role(count=8, gpus=1.0, cpus=0.1)}
    try:
        coming.expect(["2 x 16 CPU, 4 GPU"])
        assert refusal(roles, "policy") is None
        said = room.waits_for_autoscaler(roles, "policy")
        assert "policy asks for 8 GPU at once (8 ranks), the whole cluster has 0: waits for its autoscaler" in said
        assert said.endswith("which may bring 2 x 16 CPU and 4 GPU")
        assert room.waits_for_autoscaler({"ranks": Role()}, "policy") == ""
        more = refusal({"ranks": Role(count=9, gpus=1.0, cpus=0.1)}, "policy")
        assert more is not None and "with all that may come" in more.what
    finally:
        coming.expect([])
    assert refusal(roles, "policy") is not None


def test_what_has_come_is_not_counted_twice():
    coming.expect(["2 x 16 CPU, 4 GPU"])
    try:
        there = [Node("head", {"CPU": 4.0}), Node("a", {"CPU": 16.0, "GPU": 4.0})]
        assert sum(node.has.get("GPU", 0.0) for node in room.brought(there)) == 8
    finally:
        coming.expect([])
    assert room.brought(there) == there


def test_machines_that_stand_here_anyway_are_no_fewer_because_one_like_them_may_come():
    coming.expect(["1 x 8 CPU"])
    try:
        there = [Node(f"m{at}", {"CPU": 8.0}) for at in range(4)]
        assert refusal({"ranks": Role(count=4, cpus=8)}, "base", room.brought(there)) is None, "they hold it without it"
        assert len(room.brought(there)) == 4
        coming.expect(["1 x 8 CPU", "2 x 8 CPU"])
        assert len(room.brought(there)) == 4 and len(room.brought(there[:2])) == 3
    finally:
        coming.expect([])


@pytest.mark.parametrize("text", ["", "4", "x 3 CPU", "4 x", "4 x 3 TPU", "4 x 3"])
def test_machines_that_cannot_be_read_are_refused(text):
    with pytest.raises(ConfigError, match="--may-come"):
        node_group(text)
    assert node_group("4 x 32 CPU, 8 GPU") == NodeGroup(4, {"CPU": 32.0, "GPU": 8.0})
