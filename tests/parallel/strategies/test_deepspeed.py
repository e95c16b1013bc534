"""ZeRO's stages on gloo ranks: they train as one rank does, and FSDP reads what they write."""

from __future__ import annotations

import os
from pathlib import Path
from typing import Any

import pytest
import torch
import torch.distributed as dist

from raylm.core.artifact import Tokens
from raylm.core.errors import ConfigError
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.model.shapes.llama import Llama
from raylm.parallel.engine import Recipe, Stats
from raylm.parallel.mesh import Mesh
from raylm.parallel.optimizers.adamw import AdamW
from raylm.parallel.optimizers.muon import Muon
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.deepspeed import Deepspeed
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.config import Train
from raylm.train.stage import run
from tests.parallel.loops import SHAPE, TOKENS, losses, make_loop
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_same, trained
from tests.rows import counting_rows, make_rows
from tests.stages import context

DPO: dict[str, Any] = {"kind": "Pairs", "objective": {"kind": "dpo"}}
LORA: dict[str, Any] = {"adapter": {"rank": 2}}
EXPERTS = {"kind": "qwen3_moe", **SHAPE, "num_experts": 4, "experts_per_token": 2, "expert_size": 16}
# what the ranks of one group train, one after the other: starting them costs more than all of it
CASES: dict[str, tuple[Deepspeed, dict[str, Any]]] = {
    "zero 1": (Deepspeed(zero=1), {}),
    "zero 2": (Deepspeed(zero=2), {}),
    "zero 3": (Deepspeed(zero=3), {}),
    "zero 1 dpo": (Deepspeed(zero=1), DPO),
    "zero 3 dpo": (Deepspeed(zero=3), DPO),
    "zero 1 lora": (Deepspeed(zero=1), LORA),
    "zero 2 lora": (Deepspeed(zero=2), LORA),
    "zero 3 lora": (Deepspeed(zero=3), LORA),
    "zero 3 dora": (Deepspeed(zero=3), {"adapter": {"rank": 2, "use_dora": True}}),
    "zero 3 lora dpo": (Deepspeed(zero=3), LORA | DPO | {"lr": 0.03}),
    "zero 3 frozen": (
        Deepspeed(zero=3),
        {"freeze": ["layers.0", "layers.1.self_attn"], "optimizer": {"lr": 1e-2, "warmup": 2, "lr_scale": {"embed_tokens": 0.5}}},
    ),
    "zero 2 lora plus": (Deepspeed(zero=2), {"adapter": {"rank": 2, "loraplus_lr_ratio": 4.0}}),
    "zero 1, many micro batches": (Deepspeed(zero=1), {"micro": 1}),
    "zero 2, small buckets": (Deepspeed(zero=2, bucket=1500), {"micro": 1}),
    "zero 3, small buckets": (Deepspeed(zero=3, bucket=1500), {"micro": 1}),
    "zero 1 offload": (Deepspeed(zero=1, offload=["optimizer"]), {"micro": 1}),
    "zero 2 offload": (Deepspeed(zero=2, offload=["optimizer"]), {"micro": 1}),
    "zero 3 offload": (Deepspeed(zero=3, offload=["optimizer"]), {"micro": 1}),
    "zero 3 offload both": (Deepspeed(zero=3, offload=["optimizer", "parameters"]), {}),
    "zero 3 documents": (Deepspeed(zero=3), {"kind": "Tokens", "document_mask": True}),
    "zero 3 lion": (Deepspeed(zero=3), {"optimizer": {"kind": "lion", "lr": 1e-3}}),
    "zero 1 activation_checkpointing": (Deepspeed(zero=1), {"activation_checkpointing": "full"}),
    "zero 3 activation_checkpointing": (Deepspeed(zero=3), {"activation_checkpointing": "full"}),
    "zero 1 context": (Deepspeed(zero=1), {"mesh": {"context": 2}}),
    "zero 3 context": (Deepspeed(zero=3), {"mesh": {"context": 2}}),
    "zero 2 experts": (Deepspeed(zero=2), {"model": EXPERTS}),
    "zero 3 experts": (Deepspeed(zero=3), {"model": EXPERTS}),
}
# what stage 3 does stages 1 and 2 do with less cut: of each combination the default run tries one stage
LONG = {
    "zero 1 dpo", "zero 1 lora", "zero 2 lora", "zero 3 lora dpo", "zero 2 offload", "zero 3 offload", "zero 1 context",
    "zero 2 experts", "zero 1 activation_checkpointing", "zero 1, many micro batches", "zero 2, small buckets",
    "zero 3 documents",
}  # fmt: skip
TRIED = [name for name in CASES if name not in LONG or os.environ.get("RAYLM_LONG")]
ZERO = [Deepspeed(zero=1), Deepspeed(zero=2), Deepspeed(zero=3), Deepspeed(zero=3, offload=["optimizer", "parameters"])]
# stages 1 and 2 are one engine of DeepSpeed's, stage 3 is another: the default run tries one of each
AT = [at for at in range(len(ZERO)) if at in (1, 2) or os.environ.get("RAYLM_LONG")]
INDICES = [pytest.param(at, marks=[] if at in (1, 2) else pytest.mark.long) for at in range(len(ZERO))]


@pytest.fixture(scope="module")
def two(tmp_path_factory) -> list[dict[str, Any]]:
    return on_ranks(2, of_two, str(tmp_path_factory.mktemp("zero")), timeout_s=400.0)


def of_two(rank: int, world: int, folder: str) -> dict[str, Any]:
    at = Path(folder)
    found: dict[str, Any] = {name: trained(rank, world, *CASES[name]) for name in TRIED}
    for index, card in ((at, ZERO[at]) for at in AT):
        found[f"nan {index}"] = nan_on_one_rank(card, at / f"nan-{index}", rank)
        found[f"clear {index}"] = cleared(card, at / f"clear-{index}")
        found[f"bfloat16 {index}"] = trained(rank, world, card, {"dtype": "bfloat16"})
        found[f"resumed {index}"] = resumed(card, at / f"resumed-{index}")
        found[f"keys {index}"] = keys(card, at / f"keys-{index}", **LORA)
    found["keys"] = keys(Fsdp(), at / "keys", **LORA)
    found["fsdp then zero 3"] = [
        *leg(Fsdp(), at / "chain", rank, until=2),
        *leg(Deepspeed(zero=3), at / "chain", rank, until=4),
    ]
    found["folder"] = str(at)
    return found


def nan_on_one_rank(card: Deepspeed, work: Path, rank: int) -> dict[str, Any]:
    """A step with a gradient that is NaN on rank 1 alone, then a good one."""
    loop, _ = make_loop(card, work)
    engine, before = loop.engine, loop.engine.weights()
    accumulate = engine.accumulate

    def spoiled(inputs, loss, *asked):
        def nan(index, scores):
            made = loss(index, scores)
            return made._replace(total=made.total * (float("nan") if rank == 1 else 1.0))

        return accumulate(inputs, nan, *asked)

    engine.accumulate = spoiled
    bad, after = loop.step(0), engine.weights()
    engine.accumulate = accumulate
    good, later = loop.step(1), engine.weights()
    return {"bad": bad, "good": good, "done": engine.done, "before": before, "after": after, "later": later}


def cleared(card: Deepspeed, work: Path) -> dict[str, Any]:
    """A run whose first gradients are forgotten, whose second ones are refused."""
    loop, seen = make_loop(card, work, steps=4, save_every=99)
    engine, asked = loop.engine, []
    step = engine.step

    def forget(take=None):
        engine.step = step
        engine.clear()
        return Stats(0.0, 0.0, True)

    engine.step = forget
    loop.step(2)
    engine.step = lambda take=None: step(take=lambda norm: bool(asked.append(norm)))
    loop.step(2)
    engine.step = step
    metrics = loop.run()
    return {"rows": seen, "metrics": metrics, "weights": engine.weights(), "asked": asked}


def resumed(card: Deepspeed, work: Path) -> dict[str, Any]:
    """A run of 6 steps in bfloat16, and its second half again from the checkpoint of step 3."""
    found = []
    for _ in range(2):
        loop, seen = make_loop(card, work, dtype="bfloat16")
        loop.run()
        found.append({"rows": list(seen), "weights": loop.engine.weights()})
    return {"whole": found[0], "again": found[1]}


def keys(card: Any, work: Path, **table: Any) -> dict[str, Any]:
    """Of a step's state: names, and what stands for each."""
    loop, _ = make_loop(card, work, **table)
    loop.step(0)
    state = loop.engine.state()

    def told(value: Any) -> Any:
        return (type(value).__name__, tuple(value.shape), value.dtype) if isinstance(value, torch.Tensor) else value

    return {part: {name: told(value) for name, value in state[part].items()} for part in state}


def leg(card: Any, work: Path, rank: int, until: int) -> list[float]:
    """Losses of the steps from the newest checkpoint in `work` to step `until`, of whose state a checkpoint is left."""
    loop, _ = make_loop(card, work, steps=8)
    loop.saver.load()
    found = [loop.step(step)["loss"] for step in range(loop.engine.done, until)]
    loop.saver.copy()
    loop.saver.write({})
    loop.saver.wait()
    loop.saver.close()
    return found


@pytest.mark.parametrize("name", [pytest.param(n, marks=pytest.mark.long) if n in LONG else n for n in CASES])
def test_two_ranks_train_as_one(two, name):
    _, table = CASES[name]
    assert_same([one[name] for one in two], table)


@pytest.mark.parametrize("index", INDICES)
def test_a_gradient_that_is_not_finite_changes_nothing(two, index):
    for one in two:
        found = one[f"nan {index}"]
        assert not found["bad"]["finite"] and found["done"] == 2
        assert found["good"]["finite"] and 0.0 < found["good"]["grad_norm"] < 100.0
    found = two[0][f"nan {index}"]
    assert all(tensor.equal(found["after"][name]) for name, tensor in found["before"].items())
    assert not all(tensor.equal(found["later"][name]) for name, tensor in found["before"].items())


@pytest.mark.parametrize("index", INDICES)
def test_gradients_can_be_forgotten_and_refused(two, index):
    assert_same([one[f"clear {index}"] for one in two], {})
    assert all(len(one[f"clear {index}"]["asked"]) == 1 and one[f"clear {index}"]["asked"][0] > 0.0 for one in two)


@pytest.mark.parametrize("index", INDICES)
def test_bfloat16_over_float32_masters(two, index):
    found, exact = two[0][f"bfloat16 {index}"], two[0]["zero 3"]
    assert losses(found["rows"]) == pytest.approx(losses(exact["rows"]), abs=5e-3)
    assert losses(found["rows"]) != losses(exact["rows"]), "computed in float32"
    assert {tensor.dtype for tensor in found["weights"].values()} == {torch.float32}


@pytest.mark.parametrize("index", INDICES)
def test_a_resumed_run_is_the_same_bit_for_bit(two, index):
    found = two[0][f"resumed {index}"]
    assert losses(found["again"]["rows"]) == losses(found["whole"]["rows"])
    assert all(tensor.equal(found["again"]["weights"][name]) for name, tensor in found["whole"]["weights"].items())


@pytest.mark.parametrize("index", INDICES)
def test_the_state_has_the_names_and_shapes_of_fsdp(two, index):
    assert two[0][f"keys {index}"] == two[0]["keys"]


def test_three_ranks_train_as_one():
    assert_same(on_ranks(3, trained, Deepspeed(zero=3), {}, timeout_s=400.0), {})


def test_four_ranks_train_as_one():
    found = on_ranks(4, of_four, timeout_s=400.0)
    assert_same([one["data"] for one in found], {})
    assert_same([one["context"] for one in found], {})


def of_four(rank: int, world: int) -> dict[str, Any]:
    tables = {"data": {}, "context": {"mesh": {"context": 2}}}
    return {name: trained(rank, world, Deepspeed(zero=3), table) for name, table in tables.items()}


def test_a_run_goes_on_under_another_strategy_on_other_ranks(two, tmp_path):
    chain = Path(two[0]["folder"]) / "chain"
    found = list(two[0]["fsdp then zero 3"])
    found += on_ranks(4, _leg, Deepspeed(zero=1), str(chain), 6, timeout_s=400.0)[0]
    found += on_ranks(2, _leg, Fsdp(), str(chain), 8)[0]
    loop, seen = make_loop(Ddp(), tmp_path, steps=8, save_every=99)
    loop.run()
    assert found == pytest.approx(losses(seen), abs=1e-6)


def _leg(rank: int, world: int, card: Any, work: str, until: int) -> list[float]:
    return leg(card, Path(work), rank, until)


def test_one_process_without_a_group_is_a_plain_engine(tmp_path):
    loop, _ = make_loop(Deepspeed(zero=3), tmp_path, steps=2)
    assert not hasattr(loop.engine.model, "zero_optimization")
    with pytest.raises(ConfigError, match="offload works on a group"):
        make_loop(Deepspeed(zero=3, offload=["optimizer"]), tmp_path)


def test_only_zero_3_offloads_parameters():
    with pytest.raises(ConfigError, match="zero 2 keeps all weights"):
        Deepspeed(zero=2, offload=["parameters"])


@pytest.mark.parametrize("key", ["tensor", "pipeline", "expert", "replicas"])
def test_layouts_that_shard_more_than_data_are_refused(key):
    with pytest.raises(ConfigError, match=f"the mesh has {key}"):
        Deepspeed().wrap(torch.nn.Linear(2, 2), Mesh(**{key: 2}).build(0, 2), Recipe(AdamW(), 1))


@pytest.mark.parametrize("optimizer", [Muon(), AdamW(bits=8)], ids=lambda card: card.kind)
def test_optimizers_that_need_whole_matrices_are_refused(tmp_path, optimizer):
    dist.init_process_group("gloo", init_method=f"file://{tmp_path}/meet", rank=0, world_size=1)
    try:
        with pytest.raises(ConfigError, match="must treat each number by itself"):
            Deepspeed().wrap(Llama(**SHAPE).build(TOKENS, 0), Mesh().build(0, 1), Recipe(optimizer, 1))
    finally:
        dist.destroy_process_group()


@pytest.mark.long
@pytest.mark.ray
def test_the_train_stage_under_ray_finds_what_it_finds_with_fsdp(tmp_path, workers):
    from transformers import AutoModelForCausalLM

    make_rows(tmp_path, "tokens", Tokens, counting_rows(20), length=16)
    rows, loaded = [], []
    for strategy in ({"kind": "fsdp"}, {"kind": "deepspeed", "zero": 3}):
        cfg = Train(
            stage="train",
            rows="tokens",
            model={"hidden_size": 32, "num_layers": 1, "num_heads": 2, "max_length": 32},
            batch=4,
            micro_batch=1,
            steps=4,
            strategy=strategy,
            workers={"count": 2},
        )
        made = run(cfg, context(tmp_path, strategy["kind"], cfg, workers))
        rows.append(read_metrics(Folder(tmp_path / strategy["kind"])))
        loaded.append(AutoModelForCausalLM.from_pretrained(made.uri).state_dict())
    workers.release("ranks:2")
    assert losses(rows[1]) == pytest.approx(losses(rows[0]), abs=1e-6)
    assert all(torch.allclose(tensor, loaded[0][name], atol=1e-5) for name, tensor in loaded[1].items())
