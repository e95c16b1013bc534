"""Takes models with experts, proves that sharing the experts changes where they lie and nothing of what is learned."""

from __future__ import annotations

import pytest

from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.parity import assert_parity

SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_length": 64, "num_experts": 4, "experts_per_token": 2}
QWEN = {"kind": "qwen3_moe", "num_kv_heads": 1, "expert_size": 16} | SIZES
DEEPSEEK = {"kind": "deepseek_v3", "intermediate_size": 64, "expert_size": 16} | SIZES
MODELS = pytest.mark.parametrize("model", [QWEN, DEEPSEEK], ids=["qwen3_moe", "deepseek_v3"])


@MODELS
@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=["ddp", "fsdp"])
def test_experts_on_every_rank(strategy, model):
    assert_parity(2, strategy, model=model)


@MODELS
def test_experts_shared_by_two(model):
    assert_parity(2, Fsdp(), model=model, mesh={"expert": 2})
