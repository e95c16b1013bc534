"""Machines for what stages ask for, by hand."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any, cast

import pytest

from raylm.cluster.machines import Pool, one_pool, pools
from raylm.cluster.needs import StageNeed, needs
from raylm.core.config import Role
from raylm.core.errors import ConfigError, PlanError
from raylm.core.room import Node, refusal
from raylm.job import load, plan

GPUS = 'stages.policy.workers={count = 8, gpus = 1, device = "h100"}'
GENERATORS = "stages.policy.generator={count = 4, gpus = 1}"


def found(path: str, *sets: str, only: str | None = None):
    job = load(path, ["root=/nowhere/runs", *sets])
    return needs(job, plan(job, None, only))


def test_a_job_without_gpus_is_one_machine():
    (head,) = pools(found("jobs/grpo.toml"))
    # two ranks and one generator (a core each), two for Ray and the driver
    assert head == Pool("head", 1, 2 + 3, 20, 100, stages=head.stages)
    assert head.stages == ("questions", "dialogues", "prompts", "sft", "policy", "report")


def test_twelve_gpus_are_two_machines_of_eight_and_a_head_for_the_rest():
    head, gpu = pools(found("jobs/grpo.toml", GPUS, GENERATORS))
    assert (gpu.count, gpu.gpus, gpu.device, gpu.stages) == (2, 8, "h100", ("policy",))
    assert gpu.cpus == 4 * 8
    assert gpu.memory_gb == 8 * 80
    assert gpu.price_h == pytest.approx(2 * 8 * 2.6)
    assert (head.gpus, head.price_h, gpu.spot, head.spot) == (0, None, True, False)


def test_schedulers_of_equal_machines_get_equal_ones_that_hold_the_head_too():
    asked = found("jobs/grpo.toml", GPUS, GENERATORS)
    head, gpu = pools(asked)
    equal = one_pool(asked)
    assert (equal.count, equal.gpus) == (2, 8)
    assert equal.count * equal.cpus >= head.cpus + gpu.count * gpu.cpus


@pytest.mark.parametrize(("count", "machines", "each"), [(1, 1, 1), (2, 1, 2), (3, 1, 4), (8, 1, 8), (9, 2, 8), (32, 4, 8)])
def test_gpus_come_in_the_sizes_of_machines(count, machines, each):
    workers = f'stages.base.workers={{count = {count}, gpus = 1, device = "h100"}}'
    gpu = next(pool for pool in pools(found("jobs/pretrain.toml", workers, only="base")) if pool.gpus)
    assert (gpu.count, gpu.gpus) == (machines, each)


def test_a_stage_that_wants_its_ranks_spread_gets_as_many_machines():
    workers = 'stages.base.workers={count = 8, gpus = 1, nodes = 4, device = "h100"}'
    gpu = next(pool for pool in pools(found("jobs/pretrain.toml", workers, only="base")) if pool.gpus)
    assert (gpu.count, gpu.gpus) == (4, 2)


def test_more_cores_than_one_machine_has_are_several():
    asked = found("jobs/crawl.toml", "stages.scored.workers.count=200", only="scored")
    (head,) = pools(asked)
    assert (head.count, head.cpus * head.count >= 202) == (4, True)
    assert one_pool(asked).spot


def test_an_endpoint_is_not_put_on_machines_that_are_taken_away():
    (gpu,) = pools(found("jobs/serve.toml"))
    assert (gpu.spot, gpu.count, gpu.gpus) == (False, 1, 4)


def test_two_kinds_of_gpu_are_refused_with_the_stages_that_ask():
    sets = (GPUS, GENERATORS, 'stages.sft.workers={count = 2, gpus = 1, device = "h200"}')
    with pytest.raises(PlanError, match="sft: h200, policy: h100"):
        pools(found("jobs/grpo.toml", *sets))
    with pytest.raises(ConfigError, match="no device is called 'h1000'"):
        found("jobs/grpo.toml", 'stages.policy.workers={count = 8, gpus = 1, device = "h1000"}')


def test_a_stage_without_gpus_that_wants_more_machines_than_there_are_gpus_gets_them():
    def need(stage: str, cpus: float, gpus: float = 0.0, nodes: int = 0) -> StageNeed:
        role = Role(count=4, cpus=cpus / 4, gpus=gpus / 4, nodes=nodes or None)
        plain, beside = (0.0, cpus) if gpus else (cpus, 0.0)
        return StageNeed(stage, "x", {"workers": role}, cpus, plain, beside, gpus, "h100" if gpus else "", nodes, True)

    asked = [need("data", 8, nodes=4), need("train", 4, gpus=4)]
    made = pools(asked)
    there = [Node(str(at), {"CPU": pool.cpus, "GPU": pool.gpus}) for pool in made for at in range(pool.count)]
    assert len(there) == 4
    equal = one_pool(asked)
    for nodes in (there, [Node(str(at), {"CPU": equal.cpus, "GPU": equal.gpus}) for at in range(equal.count)]):
        assert not any(refusal(each.roles, each.stage, nodes) for each in asked)


def test_cores_of_one_phase_are_not_taken_from_those_of_another():
    # first 64 cores clean, then 8 ranks with 8 cores and a GPU each: 64 cores stand beside the GPUs all the same
    roles = {"readers": Role(count=64, cpus=1.0), "ranks": Role(count=8, cpus=8.0, gpus=1.0, phase=1)}
    cfg = SimpleNamespace(stage="x", spot=True, workers=SimpleNamespace(device="h100"), roles=lambda: roles)
    (need,) = needs(cast(Any, SimpleNamespace(stages={"s": cfg})), [cast(Any, SimpleNamespace(name="s", state="new"))])
    assert (need.cpus, need.cpus_without_gpu, need.cpus_with_gpu) == (64.0, 64.0, 64.0)
    machines = pools([need])
    there = [Node(str(at), {"CPU": pool.cpus, "GPU": pool.gpus}) for pool in machines for at in range(pool.count)]
    assert refusal(roles, "s", there) is None
    assert next(pool.cpus for pool in machines if pool.gpus) >= 64
