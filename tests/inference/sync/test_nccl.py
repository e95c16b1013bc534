"""The card of NCCL between GPUs: refused in words where there are none; real with two."""

from __future__ import annotations

import pytest

from raylm.rl.config import RL
from tests.inference.sync.stages import STAGE, synced_greedily


def test_without_gpus_it_is_refused_when_the_job_is_read():
    with pytest.raises(Exception, match=r"sync nccl joins whole GPUs .*workers.gpus is 0, generator.gpus 1: say kind"):
        RL(**STAGE, generator={"gpus": 1, "sync": {"kind": "nccl"}})  # type: ignore[arg-type]
    made = RL(**STAGE, workers={"gpus": 1}, generator={"gpus": 1, "sync": {"kind": "nccl"}})  # type: ignore[arg-type]
    assert made.generator.sync.backend == "nccl"


@pytest.mark.gpu
@pytest.mark.ray
@pytest.mark.vllm
def test_the_weights_that_answer_are_those_that_nccl_brought(workers, tmp_path):
    torch = pytest.importorskip("torch")
    if torch.cuda.device_count() < 2:
        pytest.skip("NCCL joins two GPUs")
    synced_greedily(workers, tmp_path, "nccl", gpus=1)
