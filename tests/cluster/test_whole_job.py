"""Raw text to a served answer on three hosts (network namespaces), with their root in a bucket of a local S3 server."""

from __future__ import annotations

import pytest

from raylm.serve.updates.reference import PROBES
from tests.cluster.hosts import Hosts, cannot
from tests.cluster.job_on_hosts import ENDPOINT, POLICY, Run, asked, left

WHY = cannot()
pytestmark = [pytest.mark.ray, pytest.mark.vllm, pytest.mark.long, pytest.mark.skipif(bool(WHY), reason=WHY or "-")]
COUNT, STEPS, ITERATIONS = 3, 20, 8
LIMIT_S = 600.0
KEY = "key-of-the-whole-job"


def test_three_hosts_prepare_train_reinforce_and_serve(tmp_path):
    with Hosts(COUNT, tmp_path) as hosts, hosts.bucket("runs") as store:
        variables = {**store, "RAYLM_API_KEY": KEY}
        # six cores for three ranks and three generators, then three engines of two: it fits, on all hosts together alone
        sizes = {"steps": STEPS, "iterations": ITERATIONS, "root": "s3://runs"}
        run = Run(hosts, tmp_path, 6, variables, POLICY + ENDPOINT, stay=True, **sizes)
        run.start()
        run.until("serves until this process is told to end", LIMIT_S)
        answers = [asked(hosts, at, KEY, client=1) for at in range(COUNT)]
        found = left(hosts, variables)
        log = run.log()
    assert sorted(found["documents"]) == sorted(run.texts)
    assert found["steps"] == list(range(STEPS))
    made = found["stages"]
    # every prompt of the order once, each answered four times, and every answer accounted for
    samples = found["samples"]
    places = sorted((each["position"], each["sample"]) for each in samples)
    assert places == [(at, place) for at in range(ITERATIONS) for place in range(4) for _ in range(6)]
    assert len({(each["row"], each["sample"]) for each in samples}) == len(samples)
    assert found["rollouts"] == {str(at): 24 for at in range(ITERATIONS)}
    # a rank, a generator and an engine on each host; nothing was lost on the way
    assert made["sft"]["config"]["workers"]["nodes"] == made["policy"]["config"]["workers"]["nodes"] == COUNT
    assert (made["sft"]["metrics"]["restarts"], made["policy"]["metrics"]["restarts"]) == (0, 0)
    # each host's gateway answers with the policy's weights, and all say the same
    assert {each.get("served") for each in answers} == {made["policy"]["fingerprint"]}, answers
    assert len({each["text"] for each in answers}) == 1
    assert made["api"]["facts"]["greedy_equal"] == made["api"]["facts"]["template_equal"] == f"{len(PROBES)}/{len(PROBES)}"
    assert "is lost" not in log
    print("seconds", {name: round(each["seconds"], 1) for name, each in made.items()})
