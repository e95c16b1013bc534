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


@MODELS
def test_every_rank_has_one_expert(model):
    assert_parity(4, Fsdp(), model=model, mesh={"expert": 4})


@pytest.mark.parametrize("num_experts", [4, 6], ids=["whole experts cut", "slices of experts cut"])
def test_shared_experts_are_cut_by_fsdp(num_experts):
    assert_parity(4, Fsdp(reshard=False), model=DEEPSEEK | {"num_experts": num_experts}, mesh={"expert": 2})


def test_replicas_share_experts_inside():
    assert_parity(4, Fsdp(), model=QWEN, mesh={"expert": 2, "replicas": 2})


def test_adapters_beside_shared_experts():
    assert_parity(2, Fsdp(), model=QWEN, mesh={"expert": 2}, adapter={"rank": 2, "modules": ["q_proj", "v_proj"]})


def test_preferences():
    assert_parity(2, Fsdp(), model=QWEN, mesh={"expert": 2}, kind="Pairs", objective={"kind": "dpo"})


@pytest.mark.parametrize(
    ("model", "balance"),
    [(QWEN, {"auxiliary": 0.1}), (DEEPSEEK, {"auxiliary": 0.1, "bias_rate": 0.01})],
    ids=["qwen3_moe", "deepseek_v3"],
)
def test_balance_is_the_same_on_any_ranks(model, balance):
    # Adam turns gradients near 0 into steps of full length: their last digits would be seen at a higher learning rate
    found = assert_parity(2, Fsdp(), model=model, mesh={"expert": 2}, balance=balance, lr=3e-3)
    other = assert_parity(3, Ddp(), model=model, balance=balance, micro=1, lr=3e-3)
    plain = assert_parity(2, Ddp(), model=model, lr=3e-3)
    for rows in (found["rows"], other["rows"]):
        assert all(row["balance_loss"] > 0.1 * 0.9 for row in rows)
    for name in ("balance_loss", "max_expert_load"):
        assert [row[name] for row in found["rows"]] == pytest.approx([row[name] for row in other["rows"]], abs=1e-6)
    assert found["rows"][-1]["loss"] != pytest.approx(plain["rows"][-1]["loss"], abs=1e-6)
    biases = [tensor for name, tensor in found["weights"].items() if "correction_bias" in name]
    assert all(float(bias.abs().max()) > 0 for bias in biases)
