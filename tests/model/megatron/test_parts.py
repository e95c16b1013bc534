"""Tensors small enough to write down: how they are joined and cut; an independent reader takes them apart."""

from __future__ import annotations

import torch

from raylm.model.megatron.parts import cut, join, parts_of, split, uncut
from raylm.model.megatron.shape import Layout, Shape

SHAPE = Shape(
    layers=1, heads=4, groups=2, vocab=5, tied=False, qkv_bias=True, qk_norm=False, experts=0, sparse=(False,), widths=(4,)
)  # fmt: skip


def part(name):
    return next(one for one in parts_of(SHAPE) if one.names[0].endswith(name))


def test_queries_stand_before_their_groups_key_and_value():
    # one number a row, heads of one row: queries 0..3, keys 10 11, values 20 21
    rows = [torch.tensor([[0.0], [1.0], [2.0], [3.0]]), torch.tensor([[10.0], [11.0]]), torch.tensor([[20.0], [21.0]])]
    whole = join(part("linear_qkv.weight"), rows, SHAPE)
    assert whole.flatten().tolist() == [0, 1, 10, 20, 2, 3, 11, 21]
    assert cut(part("linear_qkv.weight"), whole, 2, 1, 8).flatten().tolist() == [2, 3, 11, 21]
    back = split(part("linear_qkv.weight"), whole, SHAPE)
    assert [one.flatten().tolist() for one in back.values()] == [[0, 1, 2, 3], [10, 11], [20, 21]]
    assert list(back) == [f"model.layers.0.self_attn.{one}_proj.weight" for one in "qkv"]
    bias = join(part("linear_qkv.bias"), [one.flatten() for one in rows], SHAPE)
    assert bias.tolist() == [0, 1, 10, 20, 2, 3, 11, 21]


def test_heads_of_several_rows_stay_whole():
    # heads of two rows: 0 and 1 are those of the first
    rows = [torch.arange(8.0)[:, None], torch.arange(10.0, 14.0)[:, None], torch.arange(20.0, 24.0)[:, None]]
    whole = join(part("linear_qkv.weight"), rows, SHAPE).flatten().tolist()
    assert whole == [0, 1, 2, 3, 10, 11, 20, 21, 4, 5, 6, 7, 12, 13, 22, 23]


def test_a_rank_has_its_share_of_gate_and_of_up():
    one = part("linear_fc1.weight")
    whole = join(one, [torch.tensor([[1.0], [2.0], [3.0], [4.0]]), torch.tensor([[5.0], [6.0], [7.0], [8.0]])], SHAPE)
    assert whole.flatten().tolist() == [1, 2, 3, 4, 5, 6, 7, 8]
    pieces = [cut(one, whole, 2, rank, 8) for rank in range(2)]
    assert [piece.flatten().tolist() for piece in pieces] == [[1, 2, 5, 6], [3, 4, 7, 8]]
    assert torch.equal(uncut(one, pieces), whole)


def test_rows_columns_and_a_padded_vocabulary():
    down, embedding = part("linear_fc2.weight"), part("word_embeddings.weight")
    whole = torch.tensor([[1.0, 2.0, 3.0, 4.0]])
    assert [cut(down, whole, 2, rank, 8).tolist() for rank in range(2)] == [[[1, 2]], [[3, 4]]]
    words = torch.arange(1.0, 6.0)[:, None]
    pieces = [cut(embedding, words, 2, rank, 8) for rank in range(2)]
    assert [piece.flatten().tolist() for piece in pieces] == [[1, 2, 3, 4], [5, 0, 0, 0]]
    assert torch.equal(split(embedding, uncut(embedding, pieces), SHAPE)["model.embed_tokens.weight"], words)
    assert Layout(tensor=2, divisible=128).padded(50257) == 50432


def test_a_shard_holds_no_memory_of_the_rest():
    whole = torch.zeros(8, 64)
    assert cut(part("linear_proj.weight"), whole, 2, 0, 8).untyped_storage().nbytes() == whole.nbytes // 2
