"""A layout trained on fixed rows beside one rank: losses, gradient norms, weights."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from tests.parallel.on_ranks import on_ranks


def assert_parity(world: int, strategy: Any, *, abs_loss: float = 1e-6, rel_norm: float = 1e-4, **table: Any) -> dict[str, Any]:
    """Train 4 steps on `world` gloo ranks and on one in fp32: the same losses, gradient norms, held-out metrics, weights.

    Args:
        strategy: a strategy card.
        table: keys of the train stage as plain values: mesh = {"tensor": 2}, objective, adapter, model, ...

    Returns:
        What rank 0 of the layout found: rows, metrics, weights.
    """
    return assert_same(on_ranks(world, trained, strategy, table), table, abs_loss=abs_loss, rel_norm=rel_norm)


def assert_same(
    found: list[dict[str, Any]], table: dict[str, Any], *, abs_loss: float = 1e-6, rel_norm: float = 1e-4
) -> dict[str, Any]:
    """`found` is what `trained` returned on every rank; it is what one rank finds. Returns that of rank 0."""
    plain = {name: value for name, value in table.items() if name not in ("mesh", "padding_free")}
    alone = _alone(json.dumps(plain, sort_keys=True))
    for one in found:
        assert [row["loss"] for row in one["rows"]] == pytest.approx([row["loss"] for row in alone["rows"]], abs=abs_loss)
        norms = [[row["grad_norm"] for row in of["rows"]] for of in (one, alone)]
        assert norms[0] == pytest.approx(norms[1], rel=rel_norm)
        assert one["metrics"] == pytest.approx(alone["metrics"], abs=abs_loss)
    weights = found[0]["weights"]
    assert weights.keys() == alone["weights"].keys()
    for name, tensor in weights.items():
        far = float((tensor - alone["weights"][name]).abs().max())
        assert far < 1e-4, f"{name} is {far} off"
    assert all(not one["weights"] for one in found[1:])
    assert alone["rows"][0]["loss"] != pytest.approx(alone["rows"][-1]["loss"], abs=1e-3), "nothing was learned"
    return found[0]


@cache
def _alone(table: str) -> dict[str, Any]:
    from raylm.parallel.strategies.ddp import Ddp

    return trained(0, 1, Ddp(), json.loads(table))


def trained(rank: int, world: int, strategy: Any, table: dict[str, Any]) -> dict[str, Any]:
    from tests.parallel.loops import make_loop

    with tempfile.TemporaryDirectory() as work:
        loop, seen = make_loop(strategy, Path(work), **{"steps": 4, "save_every": 99, **table})
        metrics = loop.run()
    return {"rows": seen, "metrics": metrics, "weights": loop.engine.weights()}
