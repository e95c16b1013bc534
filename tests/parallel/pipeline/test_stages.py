"""Pipelines: the split into stages, and every schedule and composition against one rank."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.shapes.llama import Llama
from raylm.parallel.mesh import Mesh
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.optimizers.muon import Muon
from raylm.parallel.pipeline.stages import PipelineStages, balance, head_in_blocks
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.deepspeed import Deepspeed
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import SHAPE, TOKENS, losses, make_loop
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_parity, trained

FOUR = {**SHAPE, "num_layers": 4}
UNTIED = {**FOUR, "tie_embeddings": False}


@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=lambda card: card.kind)
def test_two_stages(strategy):
    assert_parity(2, strategy, mesh={"pipeline": 2}, micro=1)


def test_stages_and_data():
    assert_parity(4, Fsdp(), mesh={"pipeline": 2}, micro=1, model=FOUR)


def test_stages_and_data_ddp():
    assert_parity(4, Ddp(), mesh={"pipeline": 2}, micro=1, model=UNTIED)


def test_four_stages():
    assert_parity(4, Fsdp(), mesh={"pipeline": 4}, micro=2, model=FOUR)


@pytest.mark.parametrize(
    ("strategy", "schedule"),
    [
        (Fsdp(), "interleaved"),
        (Ddp(), "zero_bubble"),
        pytest.param(Ddp(), "interleaved", marks=pytest.mark.long),
        pytest.param(Fsdp(), "zero_bubble", marks=pytest.mark.long),
    ],
    ids=["fsdp-interleaved", "ddp-zero_bubble", "ddp-interleaved", "fsdp-zero_bubble"],
)
def test_several_stages_per_rank(strategy, schedule):
    assert_parity(2, strategy, mesh={"pipeline": 2, "schedule": schedule}, micro=1, model=FOUR)


def test_preferences_with_a_reference_that_is_a_pipeline_too():
    assert_parity(2, Fsdp(), mesh={"pipeline": 2}, micro=1, kind="Pairs", objective={"kind": "dpo"})


def test_pairs_that_share_their_prompts():
    table = {"kind": "Pairs", "objective": {"kind": "dpo"}, "padding_free": True}
    assert_parity(2, Fsdp(), mesh={"pipeline": 2}, micro=1, **table)


@pytest.mark.parametrize(("strategy", "schedule"), [(Fsdp(), "1f1b"), (Ddp(), "zero_bubble")], ids=["fsdp", "ddp"])
def test_adapters_over_stages(strategy, schedule):
    mesh = {"pipeline": 2, "schedule": schedule}
    adapter = {"kind": "lora", "rank": 2, "use_dora": strategy.kind == "ddp"}
    assert_parity(2, strategy, mesh=mesh, micro=1, adapter=adapter, model=FOUR)


def test_frozen_parts_over_stages():
    rates = {"lr": 5e-2, "warmup": 1, "layerwise_lr_decay": 0.5}
    assert_parity(2, Fsdp(), mesh={"pipeline": 2}, micro=1, model=UNTIED, freeze=["layers.0-1.mlp", "lm_head"], optimizer=rates)


def test_stages_of_replicas():
    assert_parity(4, Fsdp(), mesh={"pipeline": 2, "replicas": 2}, micro=1)


@pytest.mark.parametrize(
    ("strategy", "mesh"),
    [
        pytest.param(Fsdp(), {"sequence": True}, marks=pytest.mark.long),
        (Ddp(), {"sequence": False}),
        (Fsdp(), {"sequence": True, "schedule": "zero_bubble"}),
    ],
    ids=["sequence", "ddp", "zero_bubble"],
)
def test_stages_of_sharded_matrices(strategy, mesh):
    assert_parity(4, strategy, mesh={"pipeline": 2, "tensor": 2, **mesh}, micro=1, model={**FOUR, "num_kv_heads": 2})


def test_documents_are_kept_apart():
    assert_parity(2, Fsdp(), mesh={"pipeline": 2}, micro=1, kind="Tokens", document_mask=True)


LAYOUTS = {
    "pipeline": (2, Fsdp(), {"pipeline": 2}),
    "v": (2, Ddp(), {"pipeline": 2, "schedule": "zero_bubble"}),
    "fsdp": (2, Fsdp(), {}),
    "one": (1, Ddp(), {}),
}


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("pipeline", "fsdp"),
        ("one", "pipeline"),
        ("fsdp", "v"),
        pytest.param("pipeline", "one", marks=pytest.mark.long),
        pytest.param("v", "pipeline", marks=pytest.mark.long),
    ],
)
def test_a_checkpoint_goes_on_in_another_layout(tmp_path, first, then):
    """Of 6 steps the first layout takes 3 and saves, the other goes on: as if one rank had done it all."""
    world, strategy, mesh = LAYOUTS[first]
    begun = on_ranks(world, part, strategy, mesh, str(tmp_path / "work"), 4)[0]
    world, strategy, mesh = LAYOUTS[then]
    ended = on_ranks(world, part, strategy, mesh, str(tmp_path / "work"), 6)[0]
    whole = part(0, 1, Ddp(), {}, str(tmp_path / "whole"), 6)
    assert [row["step"] for row in ended] == list(range(6))
    assert losses(ended[:3]) == losses(begun[:3]), "the second run began anew"
    assert losses(ended) == pytest.approx(losses(whole), abs=1e-6)


def part(rank, world, strategy, mesh, work, steps):
    loop, seen = make_loop(
        strategy, Path(work), steps=steps, micro=1, model=FOUR, mesh=mesh, optimizer=AdamW(lr=1e-2, schedule="constant"), ema=0.9
    )
    loop.run()
    return seen


def test_a_nan_on_one_rank_is_seen_by_all():
    assert on_ranks(2, planted) == [False, False]


def planted(rank, world):
    with tempfile.TemporaryDirectory() as work:
        loop, _ = make_loop(Fsdp(), Path(work), micro=1, mesh={"pipeline": 2})
    micros = loop.batches.at(0)
    inputs, weight = loop.losses.inputs(micros, 0)
    loop.engine.accumulate(inputs, loop.share_of(lambda: loop.losses.loss_of(micros, inputs), weight, 0))
    if rank == 0:
        next(p for p in loop.engine.model.parameters()).grad.to_local().fill_(float("nan"))
    return loop.engine.step().finite


def test_blocks_are_shared_out_by_cost():
    assert balance(8, 2, head=0) == [range(4), range(4, 8)]
    # the head costs as much as two blocks: 5 | 3 + 2
    assert balance(8, 2, head=2) == [range(5), range(5, 8)]
    assert balance(7, 3, head=1) == [range(2), range(2, 5), range(5, 7)]
    assert balance(4, 4, head=9) == [range(i, i + 1) for i in range(4)]
    assert balance(3, 1, head=1) == [range(3)]


def test_fewer_blocks_than_stages_are_refused():
    with pytest.raises(ConfigError, match="2 blocks do not make 4 stages"):
        balance(2, 4, head=1)


def test_the_head_is_counted_in_blocks():
    config = {**SHAPE, "num_layers": 2}
    model = Llama(**config).build(TOKENS, 0)
    width, wide, kv = 32, 64, 16
    block = 2 * width * width + 2 * width * kv + 3 * width * wide + 2 * width
    assert head_in_blocks(model, model.model) == pytest.approx(width * 64 / block)


def test_a_part_has_the_names_of_the_whole_and_no_more():
    whole = Llama(**UNTIED).build(TOKENS, 0)
    names = set(dict(whole.named_parameters()))
    parts = []
    for rank in range(2):
        model = Llama(**UNTIED).build(TOKENS, 0)
        PipelineStages(model, Mesh(pipeline=2, schedule="interleaved").build(rank, 2))
        parts.append(set(dict(model.named_parameters())))
    assert parts[0] | parts[1] == names and not parts[0] & parts[1]
    assert {name.split(".")[2] for name in parts[0] if "layers" in name} == {"0", "2"}
    assert "model.embed_tokens.weight" in parts[0] and {"model.norm.weight", "lm_head.weight"} <= parts[1]


def test_a_family_that_is_not_known_is_refused():
    """Granite has the parts of a Llama, and scales what goes into it and what comes out."""
    from transformers import GraniteConfig, GraniteForCausalLM

    with torch.device("meta"):
        model = GraniteForCausalLM(GraniteConfig(num_hidden_layers=2, hidden_size=32, intermediate_size=64))
    with pytest.raises(ConfigError, match="'granite' cannot be split into pipeline stages"):
        PipelineStages(model, Mesh(pipeline=2).build(0, 2))


MOE = {
    "hidden_size": 32,
    "num_layers": 4,
    "num_heads": 2,
    "intermediate_size": 64,
    "expert_size": 32,
    "num_experts": 4,
    "experts_per_token": 2,
    "max_length": 64,
}


@pytest.mark.parametrize(
    ("kind", "schedule"), [("qwen3_moe", "1f1b"), ("deepseek_v3", "zero_bubble")], ids=["qwen3_moe", "deepseek_v3"]
)
def test_stages_of_shared_experts(kind, schedule):
    model = MOE | {"kind": kind}
    assert_parity(4, Fsdp(), mesh={"pipeline": 2, "expert": 2, "schedule": schedule}, micro=1, model=model)


@pytest.mark.parametrize(
    ("activation_checkpointing", "schedule"),
    [pytest.param("full", "1f1b", marks=pytest.mark.long), ("selective", "interleaved"), ("full", "zero_bubble")],
)
def test_what_is_computed_again(activation_checkpointing, schedule):
    assert_parity(
        2,
        Fsdp(),
        mesh={"pipeline": 2, "schedule": schedule},
        micro=1,
        activation_checkpointing=activation_checkpointing,
        model=FOUR,
    )


def test_what_is_computed_again_of_sharded_matrices():
    mesh = {"pipeline": 2, "tensor": 2, "schedule": "interleaved"}
    assert_parity(4, Fsdp(), mesh=mesh, micro=1, activation_checkpointing="full", model={**FOUR, "num_kv_heads": 2})


@pytest.mark.parametrize(("strategy", "schedule"), [(Fsdp(), "1f1b"), (Ddp(), "interleaved")])
def test_half_precision_is_near_single(strategy, schedule):
    narrow = on_ranks(2, trained, strategy, {"model": FOUR, "mesh": {"pipeline": 2, "schedule": schedule}, "dtype": "bfloat16"})
    single = trained(0, 1, Ddp(), {"model": FOUR})
    wide, got = ([row["loss"] for row in one["rows"]] for one in (single, narrow[0]))
    assert got == pytest.approx(wide, abs=0.03) and got != pytest.approx(wide, abs=1e-6)
    assert all(tensor.dtype == torch.float32 for tensor in narrow[0]["weights"].values())


def test_deepspeed_is_refused():
    with pytest.raises(AssertionError, match="deepspeed"):
        on_ranks(2, trained, Deepspeed(), {"mesh": {"pipeline": 2}})


@pytest.mark.parametrize("shape", [FOUR, UNTIED], ids=["tied", "untied"])
def test_the_output_layer_is_optimized_as_in_the_whole_model(shape):
    """A copy of the embedding would drift from it if another rule moved it."""
    for card in (Muon(), AdamW(no_decay=["*embed*"])):
        whole = _rules(card, Llama(**shape).build(TOKENS, 0))
        for rank in range(2):
            model = Llama(**shape).build(TOKENS, 0)
            PipelineStages(model, Mesh(pipeline=2).build(rank, 2)).shared()
            rules = _rules(card, model)
            assert rules and rules == {name: whole[name] for name in rules}


def _rules(card, model):
    """By name of a parameter under each of its names: the rule that moves it, and its decay."""
    made = card.make(model)
    rules = {
        id(p): (type(member).__name__, group["weight_decay"])
        for member in getattr(made, "members", [made])
        for group in member.param_groups
        for p in group["params"]
    }
    return {name: rules[id(p)] for name, p in model.named_parameters(remove_duplicate=False)}
