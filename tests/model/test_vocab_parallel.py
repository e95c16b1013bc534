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
        assert likeliest[:, 2:14].long().equal(ids) and torch.allclose(likeliest[:, 14:].double(), top, atol=1e-5)
        assert torch.allclose(hidden_grad.double(), hidden.grad, atol=1e-5)
    assert torch.allclose(torch.cat([one[2] for one in found]).double(), weight.grad, atol=1e-5)
    if bias:
        assert torch.allclose(torch.cat([one[3] for one in found]).double(), whole_bias.grad, atol=1e-5)
