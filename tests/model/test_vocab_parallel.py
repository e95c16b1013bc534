"""A vocabulary cut over ranks: scores and gradients are those of the whole one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.distributed as dist

from raylm.model import vocab_parallel
from tests.parallel.on_ranks import on_ranks


def case() -> dict[str, torch.Tensor]:
    draw = torch.Generator().manual_seed(2)
    return {
        "hidden": torch.randn(3, 7, 8, generator=draw),
        "weight": torch.randn(30, 8, generator=draw),
        "bias": torch.randn(30, generator=draw),
        "target": torch.randint(0, 30, (3, 7), generator=draw),
        "upstream": torch.randn(3, 7, 2, generator=draw),
        "ids": torch.rand(21, 30, generator=draw).topk(5)[1],
        "at_upstream": torch.randn(21, 8, generator=draw),
    }


def of_part(rank: int, world: int, chunk: int, bias: bool) -> list[Any]:
    vocab_parallel.CHUNK_LOGITS = chunk
    given = case()
    hidden = given["hidden"].requires_grad_()
    weight = given["weight"].chunk(world)[rank].clone().requires_grad_()
    part_bias = given["bias"].chunk(world)[rank].clone().requires_grad_() if bias else None
    part = vocab_parallel.Part(dist.group.WORLD, rank * 30 // world)
    rows = (hidden.flatten(0, 1), weight, part_bias, given["target"].flatten(), 0.7, part)
    made = vocab_parallel.scores(*rows)
    made.backward(given["upstream"].flatten(0, 1))
    # more than one rank holds
    likeliest = vocab_parallel.top_k(*rows, 12)
    return [made.detach(), hidden.grad, weight.grad, part_bias.grad if part_bias is not None else None, likeliest]


def given_of_part(rank: int, world: int, chunk: int) -> list[Any]:
    vocab_parallel.CHUNK_LOGITS = chunk
    one = case()
    hidden, weight, bias = (one[name].requires_grad_() for name in ("hidden", "weight", "bias"))
    part = vocab_parallel.Part(dist.group.WORLD, rank * 30 // world)
    mine = [each.chunk(world)[rank] for each in (weight, bias)]
    made = vocab_parallel.given(hidden.flatten(0, 1), *mine, one["target"].flatten(), 0.7, part, one["ids"], 2.0)
    made.backward(one["at_upstream"])
    few = vocab_parallel.top_k(hidden.flatten(0, 1), *mine, one["target"].flatten(), 0.7, part, 4, 7)
    return [made.detach(), hidden.grad, weight.grad, bias.grad, few]


@pytest.mark.parametrize("chunk", [40, 1 << 20])
def test_given_tokens_and_the_rest_are_those_of_the_whole_vocabulary(chunk):
    one = {name: t.double() if t.is_floating_point() else t for name, t in case().items()}
    hidden, weight, bias = (one[name].requires_grad_() for name in ("hidden", "weight", "bias"))
    logits = torch.nn.functional.linear(hidden, weight, bias).flatten(0, 1)
    hard, soft = logits / 0.7, (logits / 2.0).log_softmax(-1)
    rest = soft.scatter(1, one["ids"], -torch.inf).logsumexp(1)
    target = hard.log_softmax(-1).gather(1, one["target"].flatten()[:, None])
    expected = torch.cat([target, hard.logsumexp(1, keepdim=True), rest[:, None], soft.gather(1, one["ids"])], 1)
    expected.backward(one["at_upstream"])
    found = on_ranks(3, given_of_part, chunk)
    for made, hidden_grad, _, _, few in found:
        assert torch.allclose(made.double(), expected, atol=1e-5)
        assert torch.allclose(hidden_grad.double(), hidden.grad, atol=1e-5)
        # the likeliest of the first seven words; the third rank has none of them
        assert few[:, 3:7].long().equal(hard[:, :7].topk(4)[1])
        rest = hard.log_softmax(-1).scatter(1, few[:, 3:7].long(), -torch.inf).logsumexp(1)
        assert torch.allclose(few[:, 2].double(), rest, atol=1e-5)
    for at, right in ((2, weight.grad), (3, bias.grad)):
        assert torch.allclose(sum(each[at] for each in found).double(), right, atol=1e-5)


@pytest.mark.parametrize(("chunk", "bias"), [(1, True), (40, False), (1 << 20, True)])
def test_scores_and_gradients_are_those_of_the_whole_vocabulary(chunk, bias):
    given = {name: t.double() if t.is_floating_point() else t for name, t in case().items()}
    parts: Any = (given[name].requires_grad_() for name in ("hidden", "weight", "bias"))
    hidden, weight, whole_bias = parts
    logits = torch.nn.functional.linear(hidden, weight, whole_bias if bias else None) / 0.7
    logprob = logits.log_softmax(-1).gather(-1, given["target"][..., None])[..., 0]
    expected = torch.stack([logprob, logits.logsumexp(-1)], -1)
    expected.backward(given["upstream"])
    expected, (top, ids) = expected.flatten(0, 1), logits.log_softmax(-1).flatten(0, 1).topk(12)
    found = on_ranks(3, of_part, chunk, bias)
    for made, hidden_grad, _, _, likeliest in found:
        assert torch.allclose(made.double(), expected, atol=1e-5)
        assert torch.allclose(likeliest[:, :2].double(), expected, atol=1e-5)
        assert likeliest[:, 3:15].long().equal(ids) and torch.allclose(likeliest[:, 15:].double(), top, atol=1e-5)
        assert torch.allclose(hidden_grad.double(), hidden.grad, atol=1e-5)
    assert torch.allclose(torch.cat([one[2] for one in found]).double(), weight.grad, atol=1e-5)
    if bias:
        assert torch.allclose(torch.cat([one[3] for one in found]).double(), whole_bias.grad, atol=1e-5)
