"""Expert parallelism: it changes where experts are, and nothing of what is learned."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from transformers.models.qwen3_moe.configuration_qwen3_moe import Qwen3MoeConfig
from transformers.models.qwen3_moe.modeling_qwen3_moe import Qwen3MoeExperts

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.load import load_model
from raylm.parallel.checkpoints.steps import whole_checkpoints
from raylm.parallel.expert import _by_expert, _fits_grouped
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.trainer.export import write_streamed
from tests.model.tiny import tiny_checkpoint
from tests.parallel.loops import make_loop
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_parity

SIZES = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "max_length": 64, "num_experts": 4, "experts_per_token": 2}
QWEN = {"kind": "qwen3_moe", "num_kv_heads": 1, "expert_size": 16} | SIZES
DEEPSEEK = {"kind": "deepseek_v3", "intermediate_size": 64, "expert_size": 16} | SIZES
MODELS = pytest.mark.parametrize("model", [QWEN, DEEPSEEK], ids=["qwen3_moe", "deepseek_v3"])


@pytest.mark.parametrize(("strategy", "model"), [(Ddp(), QWEN), (Fsdp(), DEEPSEEK)], ids=["ddp", "fsdp"])
def test_experts_on_every_rank(strategy, model):
    assert_parity(2, strategy, model=model)


@MODELS
def test_experts_shared_by_two(model):
    assert_parity(2, Fsdp(), model=model, mesh={"expert": 2})


def test_every_rank_has_one_expert():
    assert_parity(4, Fsdp(), model=DEEPSEEK, mesh={"expert": 4})


@pytest.mark.parametrize(
    "sizes",
    [{"num_experts": 4}, {"num_experts": 6}],
    ids=["whole experts cut", "slices of experts cut"],
)
def test_shared_experts_are_sharded_by_fsdp(sizes):
    assert_parity(4, Fsdp(reshard=False), model=DEEPSEEK | sizes, mesh={"expert": 2})


@pytest.mark.parametrize("width", [8, 6], ids=["grouped kernel", "one by one"])
def test_each_expert_meets_its_own_rows(width):
    # 6 floats are 24 bytes, none for the grouped kernel
    config = Qwen3MoeConfig(hidden_size=32, num_experts=4, moe_intermediate_size=width, num_hidden_layers=1)
    experts: Any = Qwen3MoeExperts(config)
    for weight in experts.parameters():
        torch.nn.init.normal_(weight, std=0.1)
    rows, counts = torch.randn(7, 32, requires_grad=True), [3, 0, 2, 2]
    assert _fits_grouped(rows, experts.down_proj) == (width == 8)
    made = _by_expert(experts, rows, torch.tensor(counts), experts.gate_up_proj, experts.down_proj)
    number = torch.arange(4).repeat_interleave(torch.tensor(counts))
    # the same by transformers, each row sent to one expert with weight 1
    config._experts_implementation = "eager"
    expected = experts(rows, number[:, None], torch.ones(7, 1))
    torch.testing.assert_close(made, expected)
    wanted = (rows, experts.gate_up_proj, experts.down_proj)
    found, theirs = (torch.autograd.grad(each.square().sum(), wanted) for each in (made, expected))
    for one, other in zip(found, theirs, strict=True):
        torch.testing.assert_close(one, other)
    assert found[1][1].abs().sum() == 0


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


def run(rank: int, world: int, work: str, table: dict[str, Any], export: str = "", tokenizer: str = "") -> dict[str, Any]:
    """Six steps, or those that are left from the checkpoint of step 3 in `work`; `export` gets the weights."""
    loop, seen = make_loop(Fsdp(), Path(work), **table)
    there = whole_checkpoints(Folder(work))
    loop.run()
    if export:
        write_streamed(loop.engine, Folder(export), loop.engine.bare.config, tokenizer)
    return {"losses": [row["loss"] for row in seen], "there": there, "weights": loop.engine.weights()}


@pytest.mark.parametrize(
    "there",
    [(2, {"expert": 2}), pytest.param((1, {}), marks=pytest.mark.long)],
    ids=["shared, whole, shared", "whole, shared, whole"],
)
def test_checkpoints_go_on_in_another_layout(tmp_path, there):
    table = {"model": DEEPSEEK, "balance": {"bias_rate": 0.01}, "lr": 3e-3}
    layouts = [there, (1, {}) if there[0] > 1 else (4, {"expert": 2}), there]
    found = [on_ranks(world, run, str(tmp_path), {**table, "mesh": mesh})[0] for world, mesh in layouts]
    for one in found[1:]:
        assert one["there"] == [3] and len(one["losses"]) == 6
        assert one["losses"] == pytest.approx(found[0]["losses"], abs=2e-6)
        for name, tensor in one["weights"].items():
            torch.testing.assert_close(tensor, found[0]["weights"][name], atol=1e-4, rtol=0, msg=name)
    # the bias was not begun anew
    bias = found[1]["weights"]["model.layers.1.mlp.gate.e_score_correction_bias"]
    assert bias.abs().max() > 0.015
    torch.testing.assert_close(bias, found[0]["weights"]["model.layers.1.mlp.gate.e_score_correction_bias"])


@MODELS
def test_shared_experts_are_exported_one_by_one(tmp_path, model):
    tiny = tiny_checkpoint(tmp_path / "tokenizer")
    table = {"model": model, "mesh": {"expert": 2}, "steps": 2}
    found = on_ranks(2, run, str(tmp_path / "work"), table, str(tmp_path / "out"), str(tiny))[0]
    loaded: Any = load_model(str(tmp_path / "out")).eval()
    assert {name: tuple(tensor.shape) for name, tensor in loaded.state_dict().items()} == {
        name: tuple(tensor.shape) for name, tensor in found["weights"].items()
    }
    for name, tensor in loaded.state_dict().items():
        assert tensor.equal(found["weights"][name]), name
    from safetensors import safe_open

    with safe_open(tmp_path / "out" / "model.safetensors", "pt") as file:
        assert "model.layers.1.mlp.experts.3.down_proj.weight" in set(file.keys())


def refused(rank: int, world: int, table: dict[str, Any]) -> str:
    with pytest.raises(ConfigError) as caught:
        make_loop(Fsdp(), Path("unused"), mesh={"expert": 2}, **table)
    return str(caught.value)


def test_what_cannot_be_shared_is_refused():
    assert "has no experts" in on_ranks(2, refused, {})[0]
    assert "does not divide the model's 5 experts" in on_ranks(2, refused, {"model": QWEN | {"num_experts": 5}})[0]


@pytest.mark.parametrize(
    ("model", "sequence"),
    [(QWEN | {"num_kv_heads": 2}, True), (DEEPSEEK | {"q_lora_rank": 12}, True), (DEEPSEEK, False)],
    ids=["qwen3_moe", "deepseek_v3", "deepseek_v3 whole rows"],
)
def test_tensor_ranks_beside_experts(model, sequence):
    assert_parity(2, Fsdp(), model=model, mesh={"tensor": 2, "sequence": sequence}, lr=3e-3)


@pytest.mark.parametrize("sequence", [True, pytest.param(False, marks=pytest.mark.long)], ids=["sequence", "whole rows"])
def test_tensor_ranks_hold_the_same_experts(sequence):
    assert_parity(4, Fsdp(), model=DEEPSEEK, mesh={"tensor": 2, "expert": 2, "sequence": sequence})


@pytest.mark.parametrize(
    ("world", "mesh", "keys"),
    [
        (2, {"expert": 2, "context": 2}, {}),
        (4, {"expert": 2, "pipeline": 2}, {}),
        (2, {"expert": 2}, {"activation_checkpointing": "full"}),
        # "all" has each of these in it
        pytest.param(4, {"expert": 2, "context": 2, "tensor": 2}, {}, marks=pytest.mark.long),
        pytest.param(8, {"expert": 2, "pipeline": 2, "tensor": 2}, {}, marks=pytest.mark.long),
        pytest.param(4, {"expert": 2, "pipeline": 2, "context": 2}, {}, marks=pytest.mark.long),
        (8, {"expert": 2, "pipeline": 2, "context": 2, "tensor": 2}, {}),
    ],
    ids=["context", "pipeline", "activation_checkpointing", "context, tensor", "pipeline, tensor", "pipeline, context", "all"],
)
def test_experts_beside(world, mesh, keys):
    assert_parity(world, Fsdp(), model=QWEN | {"num_kv_heads": 2}, mesh=mesh, lr=3e-3, **keys)
