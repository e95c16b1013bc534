"""The card of CUDA IPC within one GPU: refused in words where it is not shared; real with one."""

from __future__ import annotations

import pytest

from raylm.rl.config import RL
from tests.inference.sync.stages import STAGE, synced_greedily


@pytest.mark.parametrize("parts", [{}, {"generator": {"gpus": 0.5}}, {"workers": {"gpus": 0.5, "count": 2}}])
def test_without_one_gpu_for_both_it_is_refused_when_the_job_is_read(parts):
    generator = {"gpus": 0.5, "sync": {"kind": "ipc"}, **parts.get("generator", {})}
    with pytest.raises(Exception, match="sync ipc passes weights within one GPU; there are"):
        RL(**STAGE, workers=parts.get("workers", {}), generator=generator)
    RL(**STAGE, workers={"gpus": 0.5}, generator=generator)


@pytest.mark.gpu
@pytest.mark.ray
@pytest.mark.vllm
def test_the_weights_that_answer_are_those_that_lie_on_the_same_gpu(workers, tmp_path):
    synced_greedily(workers, tmp_path, "ipc", gpus=0.5)
