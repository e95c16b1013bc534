"""A few steps of an optimizer card on a small model."""

from __future__ import annotations

import copy
from typing import Any

import torch


def small() -> torch.nn.Module:
    torch.manual_seed(1)
    return torch.nn.Sequential(
        torch.nn.Embedding(20, 64), torch.nn.Linear(64, 96), torch.nn.LayerNorm(96), torch.nn.Linear(96, 20)
    )


def updated(model: torch.nn.Module, optimizer: Any, steps: int, first: int = 0) -> list[float]:
    """Losses of `steps` updates; batch `first`, `first` + 1, ... are the same for everyone."""
    losses = []
    for step in range(first, first + steps):
        draw = torch.Generator().manual_seed(step)
        tokens = torch.randint(0, 20, (16,), generator=draw)
        loss = torch.nn.functional.cross_entropy(model(tokens), (tokens + 1) % 20)
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    return losses


def resumes_bit_for_bit(card: Any) -> None:
    """Saved after 4 updates and loaded into a fresh optimizer: the next 4 leave the same weights."""
    model = small()
    optimizer = card.make(model)
    updated(model, optimizer, 4)
    saved = copy.deepcopy((model.state_dict(), optimizer.state_dict()))
    expected = updated(model, optimizer, 4, first=4)
    other = small()
    other.load_state_dict(saved[0])
    fresh = card.make(other)
    fresh.load_state_dict(saved[1])
    assert updated(other, fresh, 4, first=4) == expected
    assert all(left.equal(right) for left, right in zip(model.parameters(), other.parameters(), strict=True))


def trained_on_two_ranks(rank: int, world: int, card: Any) -> dict[str, Any]:
    """Losses and weights of a loop under FSDP2; the same at any number of ranks."""
    from raylm.parallel.strategies.fsdp import Fsdp
    from tests.parallel.parity import trained

    return trained(rank, world, Fsdp(), {"optimizer": card})
