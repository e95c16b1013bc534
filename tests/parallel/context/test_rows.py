"""Context parallelism: attention and training over rows sharded by token, against one rank."""

from __future__ import annotations

import pytest
import torch
import torch.distributed as dist

from raylm.model.attention import attend
from raylm.model.attention_backends import Call
from raylm.parallel.context import ring
from raylm.parallel.context.ring import Ring
from raylm.parallel.context.ring_blocks import Block, backward, forward
from raylm.parallel.context.ring_blocks import _plain_backward as plain_backward
from raylm.parallel.context.ring_blocks import _plain_forward as plain_forward
from raylm.parallel.context.rows import Across
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.model.attention_cases import eager
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_parity, trained

CASES = {
    "causal": {},
    "documents": {"documents": [[5, 1, 9, 9], [16, 3, 2, 3]]},
    "window": {"window": 5},
    "documents_window": {"documents": [[20, 4], [2, 22]], "window": 5},
    "one_kv_head": {"kv": 1},
    "latent": {"kv": 4, "value": 5},
    "bfloat16": {"dtype": "bfloat16", "documents": [[5, 19], [24]]},
}


def drawn(heads: int = 4, kv: int = 2, length: int = 24, value: int = 8, dtype: str = "float32") -> list[torch.Tensor]:
    gen = torch.Generator().manual_seed(1)
    shapes = ((2, heads, length, 8), (2, kv, length, 8), (2, kv, length, value), (2, heads, length, value))
    return [torch.randn(shape, generator=gen).to(getattr(torch, dtype)) for shape in shapes]


def numbered(lengths: list[list[int]] | None) -> torch.Tensor | None:
    if lengths is None:
        return None
    return torch.stack([torch.repeat_interleave(torch.arange(len(row)), torch.tensor(row)) for row in lengths])


def attended(rank: int, world: int, method: str) -> dict[str, list[torch.Tensor]]:
    """Output and gradients of this rank's tokens for each case, put at their places among zeros."""
    ring.CHUNK = 4
    found = {}
    for name, case in CASES.items():
        table = dict(case)
        document_BT, window = numbered(table.pop("documents", None)), table.pop("window", None)
        query, key, value, upstream = drawn(**table)
        whole = [x.requires_grad_() for x in (query, key, value)]
        across = Across(dist.group.WORLD, 24, method == "ring", document_BT)
        place = across.order_T.chunk(world)[rank]
        out, _ = attend(None, *(x[:, :, place] for x in whole), None, scaling=0.4, sliding_window=window, across=across)
        (out.transpose(1, 2) * upstream[:, :, place]).sum().backward()
        full = torch.zeros_like(upstream)
        full[:, :, place] = out.detach().transpose(1, 2)
        found[name] = [full, *(x.grad for x in whole)]
    return found


LONGER = [pytest.param(method, 2, marks=pytest.mark.long) for method in ("ring", "ulysses")]


@pytest.mark.parametrize(("method", "world"), [("ring", 3), ("ring", 4), ("ulysses", 4), *LONGER])
def test_attention_between_ranks_is_attention_on_one(method, world):
    """Queries, keys and values of unequal heads, documents, windows; each rank has the gradient of its own tokens alone."""
    parts = on_ranks(world, attended, method)
    for name, case in CASES.items():
        table = dict(case)
        document_BT, window = numbered(table.pop("documents", None)), table.pop("window", None)
        query, key, value, upstream = drawn(**table)
        whole = [x.double().detach().requires_grad_() for x in (query, key, value)]
        out = eager(*whole, 0.4, document_BT, window)
        (out * upstream.double()).sum().backward()
        tolerance = 5e-2 if query.dtype == torch.bfloat16 else 1e-5
        for at, expected in enumerate([out.detach(), *(x.grad for x in whole)]):
            far = float((sum(part[name][at].double() for part in parts) - expected).abs().max())
            assert far < tolerance, f"{name} {('out', 'query', 'key', 'value')[at]} is {far} off"
    # nobody has gradients of another rank's tokens
    assert all((part["causal"][3] != 0).any(-1).sum() == 2 * 2 * 24 // world for part in parts)


class Alone:
    """A group of `ranks`, seen by one of them."""

    def __init__(self, rank: int, ranks: int) -> None:
        self._rank, self._ranks = rank, ranks

    def rank(self) -> int:
        return self._rank

    def size(self) -> int:
        return self._ranks


def test_every_rank_of_a_ring_has_as_much_to_do():
    rings = [Ring(Alone(rank, 4), 64) for rank in range(4)]
    assert rings[0].order().tolist()[:16] == [*range(8), *range(56, 64)]
    assert sorted(rings[0].order().tolist()) == list(range(64))
    for one in rings:
        found = [block for of in range(4) for block in one.blocks(of, Call(1.0), torch.device("cpu"))]
        # 2 squares on the diagonal, 2 of the 4 pairs of pieces with each other rank and 1 with itself
        assert sum(block.causal for *_, block in found) == 2 and len(found) == 2 + 1 + 2 * 3


def test_documents_that_do_not_meet_are_not_computed():
    document_BT = torch.repeat_interleave(torch.arange(8), 8)[None]
    for rank in range(4):
        one = Ring(Alone(rank, 4), 64, document_BT, document_BT)
        found = [len(list(one.blocks(of, Call(1.0), torch.device("cpu")))) for of in range(4)]
        assert found == [2 if of == rank else 0 for of in range(4)]
    narrow = Ring(Alone(3, 4), 64)
    assert sum(len(list(narrow.blocks(of, Call(1.0, window=2), torch.device("cpu")))) for of in range(4)) == 4


@pytest.mark.parametrize("kind", ["full", "causal", "masked"])
def test_the_plain_formulas_are_the_kernels(kind, monkeypatch):
    """What a device without a flash kernel computes is what the CPU's gives, also where a query sees nothing."""
    monkeypatch.setattr("raylm.parallel.context.ring_blocks.QUERIES", 3)
    gen = torch.Generator().manual_seed(0)
    query, key, value, upstream = (torch.randn(2, heads, 7, 8, generator=gen) for heads in (4, 2, 2, 4))
    seen = torch.ones(2, 7, 7, dtype=torch.bool).tril()
    seen[:, 4:, :2] = False
    seen[1, 2] = False
    block = Block(kind == "causal", 0.3, seen if kind == "masked" else None)
    kernel, plain = forward(query, key, value, block), plain_forward(query, key, value, block)
    for left, right in zip(kernel, plain, strict=True):
        torch.testing.assert_close(left, right, atol=1e-6, rtol=1e-5)
    out, lse = kernel[0], kernel[1].clamp(min=-1e30)
    grads = (of(upstream, query, key, value, out, lse, block) for of in (backward, plain_backward))
    for left, right in zip(*grads, strict=True):
        torch.testing.assert_close(left, right, atol=1e-5, rtol=1e-5)


QWEN3 = {"kind": "qwen3", "hidden_size": 32, "num_layers": 2, "num_heads": 4, "num_kv_heads": 2, "max_length": 64}


@pytest.mark.parametrize(
    ("strategy", "method"),
    [
        (Ddp(), "ring"),
        (Fsdp(), "ulysses"),
        pytest.param(Fsdp(), "ring", marks=pytest.mark.long),
        pytest.param(Ddp(), "ulysses", marks=pytest.mark.long),
    ],
    ids=["ddp-ring", "fsdp-ulysses", "fsdp-ring", "ddp-ulysses"],
)
def test_two_ranks_share_rows(strategy, method):
    assert_parity(2, strategy, mesh={"context": 2, "context_method": method})


@pytest.mark.parametrize("method", ["ring", "ulysses"])
def test_documents_are_kept_apart(method):
    assert_parity(2, Fsdp(), mesh={"context": 2, "context_method": method}, kind="Tokens", document_mask=True)


def test_four_ranks_share_rows_around_a_ring():
    # two heads: `auto` takes the ring
    assert_parity(4, Fsdp(), mesh={"context": 4})


def test_with_data_ranks():
    assert_parity(4, Ddp(), mesh={"context": 2})
    assert_parity(4, Fsdp(), mesh={"context": 2})


def test_with_replicas():
    assert_parity(4, Fsdp(), mesh={"context": 2, "replicas": 2, "context_method": "ring"})


def test_with_tensor_ranks():
    assert_parity(4, Fsdp(), mesh={"context": 2, "tensor": 2}, model=QWEN3)


def test_heads_that_are_fewer_than_ranks_are_copied():
    assert_parity(4, Ddp(), mesh={"context": 4, "context_method": "ulysses"}, model=QWEN3)


@pytest.mark.parametrize("method", ["ring", "ulysses"])
def test_a_preference_objective(method):
    assert_parity(2, Fsdp(), mesh={"context": 2, "context_method": method}, kind="Pairs", objective={"kind": "dpo"})


def test_pairs_that_share_their_prompts():
    table = {"kind": "Pairs", "objective": {"kind": "dpo"}, "padding_free": True}
    assert_parity(2, Fsdp(), mesh={"context": 2, "context_method": "ulysses"}, **table)


@pytest.mark.parametrize("method", ["ring", "ulysses"])
def test_an_adapter_beside_frozen_weights(method):
    assert_parity(2, Ddp(), mesh={"context": 2, "context_method": method}, adapter={"kind": "lora", "rank": 2})


@pytest.mark.parametrize("method", ["ring", "ulysses"])
def test_with_pipeline_stages(method):
    mesh = {"context": 2, "pipeline": 2, "context_method": method}
    assert_parity(4, Fsdp(), mesh=mesh, kind="Tokens", document_mask=True)


def test_with_pipeline_stages_and_tensor_ranks():
    mesh = {"context": 2, "pipeline": 2, "tensor": 2}
    assert_parity(8, Fsdp(), mesh=mesh, model=QWEN3, kind="Tokens", document_mask=True)


def test_half_precision():
    """Losses of the first steps in bfloat16 lie where those of one rank do."""
    table = {"dtype": "bfloat16", "steps": 2, "kind": "Tokens", "document_mask": True}
    alone = on_ranks(1, trained, Ddp(), table)[0]["rows"]
    for strategy, method in ((Ddp(), "ring"), (Fsdp(), "ring"), (Fsdp(), "ulysses")):
        rows = on_ranks(2, trained, strategy, {**table, "mesh": {"context": 2, "context_method": method}})[0]["rows"]
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in alone], abs=0.02)


def refusals(rank: int, world: int) -> list[str]:
    from transformers import AutoConfig, AutoModelForCausalLM

    from raylm.core.errors import ConfigError
    from raylm.model.attention import install
    from raylm.model.scores import Inputs
    from raylm.parallel.context.rows import Context
    from raylm.parallel.mesh import Mesh

    small = {"vocab_size": 40, "hidden_size": 24, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 3}

    def refused(method: str, kind: str = "llama", feed: dict | None = None, backend: str = "auto", **fields: object) -> str:
        model = AutoModelForCausalLM.from_config(AutoConfig.for_model(kind, **small, **fields))
        install(model, backend)
        try:
            context = Context(model, Mesh(context=2, context_method=method).build(rank, world))
            if feed is not None:
                ones = torch.ones(1, 4)
                context.shard(Inputs({"input_ids": ones.long(), **feed}, ones.long(), ones))
        except ConfigError as error:
            return str(error)
        return "nothing was refused"

    return [
        refused("ulysses"),
        refused("auto"),
        refused("ring", attention_dropout=0.1),
        refused("ring", kind="gemma2", head_dim=8),
        refused("ring", feed={"attention_mask": torch.ones(1, 4)}),
        refused("ring", backend="sdpa"),
    ]


def test_what_cannot_be_sharded_is_refused():
    found = on_ranks(2, refusals)[0]
    assert "2 context ranks do not divide 3 heads" in found[0] and 'mesh.context_method = "ring"' in found[0]
    assert found[1] == "nothing was refused"
    assert "drops out" in found[2] and "caps attention scores" in found[3] and "cannot shard attention_mask" in found[4]
    assert "a ring attends by its own kernels" in found[5]
