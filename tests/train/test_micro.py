"""Engines and budgets: micro batches found by measuring fit, on every rank the same."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import PlacementError
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.micro import _bytes_of, find_micro
from tests.parallel.loops import make_loop
from tests.parallel.on_ranks import on_ranks


def found(loop, free, most=64, kind="Tokens"):
    return find_micro(loop.engine, loop.cfg.objective, kind=kind, length=32, vocab_size=64, most=most, free=free)


def test_memory_grows_by_the_row_and_the_budget_is_kept(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path)
    measured = {rows: _bytes_of(loop.engine, loop.cfg.objective, "Tokens", 32, 64, rows) for rows in (1, 2, 5, 9)}
    assert measured[9] - measured[5] == pytest.approx(4 * (measured[2] - measured[1]), rel=0.05)
    rows = found(loop, free=1_000_000)
    assert 1 < rows < 64
    assert _bytes_of(loop.engine, loop.cfg.objective, "Tokens", 32, 64, rows) <= 1_000_000
    assert _bytes_of(loop.engine, loop.cfg.objective, "Tokens", 32, 64, rows + 2) > 1_000_000
    assert all(p.grad is None for p in loop.engine.model.parameters())


def test_never_more_than_the_share_of_a_batch_and_never_nothing(tmp_path):
    loop, _ = make_loop(Ddp(), tmp_path)
    assert found(loop, free=10**12, most=5) == 5
    with pytest.raises(PlacementError, match="one row of 32 tokens takes"):
        found(loop, free=1000)
    assert find_micro(loop.engine, loop.cfg.objective, kind="Tokens", length=32, vocab_size=64, most=4) == 4


def test_pairs_are_two_rows(tmp_path):
    tokens, _ = make_loop(Ddp(), tmp_path)
    pairs, _ = make_loop(Ddp(), tmp_path, kind="Pairs", objective={"kind": "dpo"})
    assert found(pairs, 1_000_000, kind="Pairs") == pytest.approx(found(tokens, 1_000_000) / 2, abs=2)


def on_two(rank: int, world: int, at: str) -> int:
    torch.manual_seed(rank)
    loop, _ = make_loop(Fsdp(), at)
    return found(loop, free=1_000_000 if rank else 500_000)


def test_the_rank_with_the_least_room_decides(tmp_path):
    first, second = on_ranks(2, on_two, str(tmp_path))
    assert first == second < found(make_loop(Fsdp(), tmp_path)[0], free=1_000_000)
