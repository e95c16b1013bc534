"""A model that rank 0 alone builds: every layout starts from exactly its weights, and gives them back whole."""

from __future__ import annotations

from typing import Any

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.model.adapters.lora import Lora
from raylm.model.adapters.qlora import Qlora
from raylm.model.shapes.llama import Llama
from raylm.parallel.assemble import assemble
from raylm.parallel.checkpoints.whole import whole_tensors
from raylm.parallel.start import begin, skeleton_of
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.config import Train
from tests.parallel.loops import TOKENS
from tests.parallel.on_ranks import on_ranks

# 3 layers, a width of 40 and 66 words: pieces of unequal size
SHAPE: dict[str, Any] = {
    "hidden_size": 40,
    "num_layers": 3,
    "num_heads": 4,
    "num_kv_heads": 2,
    "intermediate_size": 72,
    "max_length": 64,
}
WORDS = {**TOKENS, "vocab_size": 66}


def build(adapter: bool | str = False, tied: bool = True) -> torch.nn.Module:
    model = Llama(**SHAPE, tie_embeddings=tied).build(WORDS, 5)
    return (Qlora if adapter == "qlora" else Lora)(rank=3).attach(model, 1) if adapter else model


def started(rank: int, world: int, strategy: Any, mesh: dict[str, Any], adapter: bool | str, tied: bool) -> dict[str, Any]:
    calls = []

    def make() -> torch.nn.Module:
        calls.append(rank)
        return build(adapter, tied)

    table = {"stage": "train", "rows": "rows", "model": SHAPE, "mesh": mesh, "workers": {"count": world}, "batch": 4, "steps": 2}
    cfg = Train.model_validate({**table, "strategy": strategy})
    begun = begin(make, rank, world)
    meta = all(p.is_meta for p in begun.model.parameters())
    engine = assemble(begun.model, cfg, 2, rank=rank, world=world, weight_loader=begun.weight_loader)
    names = []

    def streamed():
        for name, tensor in engine.stream():
            names.append(name)
            yield name, tensor.clone()

    weights = dict(streamed())
    inverse = [b.clone() for name, b in engine.bare.named_buffers() if name.endswith("rotary_emb.inv_freq")]
    return {"calls": calls, "meta": meta, "weights": weights, "names": names, "inverse": inverse}


@pytest.mark.parametrize(
    ("world", "strategy", "mesh", "adapter", "tied"),
    [
        (2, Ddp(), {}, False, True),
        (3, Fsdp(), {}, True, True),
        (3, Fsdp(), {}, "qlora", False),
        (3, Fsdp(offload=True), {}, False, False),
        (6, Fsdp(), {"tensor": 2}, False, True),
        (4, Fsdp(), {"tensor": 2}, True, False),
        (4, Fsdp(), {"replicas": 2}, False, True),
        (4, Fsdp(), {"pipeline": 2}, False, True),
    ],
    ids=lambda value: getattr(value, "kind", None) or str(value),
)
def test_every_layout_starts_from_the_weights_of_rank_0(world, strategy, mesh, adapter, tied):
    found = on_ranks(world, started, strategy, mesh, adapter, tied)
    expected = dict(whole_tensors(build(adapter, tied)))
    assert [one["calls"] for one in found] == [[0]] + [[]] * (world - 1)
    assert all(one["meta"] for one in found)
    assert found[0]["weights"].keys() == expected.keys()
    assert all(tensor.equal(expected[name]) for name, tensor in found[0]["weights"].items())
    assert not any(one["weights"] for one in found[1:])
    inverse = [b for name, b in build().named_buffers() if name.endswith("rotary_emb.inv_freq")]
    assert all(one["inverse"][0].equal(inverse[0]) for one in found)


def failed(rank: int, world: int) -> str:
    def make() -> torch.nn.Module:
        raise ConfigError("the model is too tall", next="take a shorter one")

    with pytest.raises(ConfigError) as caught:
        begin(make, rank, world)
    return caught.value.what


def test_what_fails_on_rank_0_is_raised_on_every_rank():
    assert on_ranks(2, failed) == ["the model is too tall"] * 2


def test_a_skeleton_has_no_memory_and_stays_tied():
    model = build()
    bare: Any = skeleton_of(model)
    assert all(p.is_meta for p in bare.parameters())
    assert bare.lm_head.weight is bare.model.embed_tokens.weight
    assert {name: p.shape for name, p in bare.named_parameters()} == {name: p.shape for name, p in model.named_parameters()}
    assert not any(p.is_meta for p in model.parameters())
