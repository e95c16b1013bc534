"""Training of a model whose experts are modules of their own, some of which a batch sends no token to."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from raylm.train.config import Train
from tests.parallel.loops import SHAPE, TOKENS, make_loop


class Experts(torch.nn.Module):
    """Each token goes to the expert that its first number picks; nobody picks the last one."""

    def __init__(self, size: int) -> None:
        super().__init__()
        self.experts = torch.nn.ModuleList(torch.nn.Linear(size, size, bias=False) for _ in range(9))

    def forward(self, x_BTD: torch.Tensor) -> torch.Tensor:
        picked_BT = (x_BTD[..., 0].detach() * 4).round().clamp(-4, 3).long() + 4
        out_BTD = torch.zeros_like(x_BTD)
        for number in picked_BT.unique().tolist():
            out_BTD = torch.where(picked_BT[..., None] == number, self.experts[number](x_BTD), out_BTD)
        return out_BTD


def trained(rank: int, world: int, strategy: Any) -> dict[str, Any]:
    """Four steps of a batch of 5, one row at a time: experts that one rank meets another does not."""
    torch.manual_seed(0)
    model: Any = Train(stage="train", rows="r", model=SHAPE, batch=1, steps=1).model.build(TOKENS, 0)  # type: ignore[union-attr]
    for layer in model.model.layers:
        layer.mlp = Experts(SHAPE["hidden_size"])
    with tempfile.TemporaryDirectory() as work:
        loop, seen = make_loop(strategy, Path(work), model=model, steps=4, micro=1, save_every=99)
        loop.run()
    return {"losses": [row["loss"] for row in seen], "weights": loop.engine.weights()}


def refusals(rank: int, world: int) -> dict[str, str]:
    """What the strategies say that do not train such a model."""
    from raylm.core.errors import ConfigError
    from raylm.parallel.strategies.deepspeed import Deepspeed
    from raylm.parallel.strategies.fsdp import Fsdp

    said = {}
    for strategy in (Fsdp(), Deepspeed()):
        try:
            trained(rank, world, strategy)
        except ConfigError as error:
            said[strategy.kind] = str(error)
    return said
