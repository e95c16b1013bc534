"""A custom optimizer: it trains, is forecast and is refused as raylm's own are."""

from __future__ import annotations

from typing import Any, Literal

import pytest
import torch

from raylm import job
from raylm.core.config import CustomCard
from raylm.core.errors import ConfigError
from raylm.estimate import check, estimate
from raylm.parallel.optimizers.schedule import Scheduled
from raylm.parallel.strategies.ddp import Ddp
from tests.parallel.parity import trained
from tests.test_job import write


class Sgd(Scheduled):
    """One moment for each number."""

    kind: Literal["sgd"] = "sgd"
    momentum: float = 0.9

    @property
    def bytes_per_weight(self) -> float:
        return 4.0

    def make(self, model: Any) -> torch.optim.Optimizer:
        return torch.optim.SGD(self.groups(model), lr=self.lr, momentum=self.momentum)


class NoOptimizer(CustomCard):
    """A config that makes nothing."""

    path: str = ""


def planned(tmp_path, keys):
    def change(text):
        return text + f'optimizer = {{kind = "custom", path = "{__name__}:Sgd", options = {{lr = 0.1}}}}\n' + keys

    loaded = job.load(write(tmp_path, change))
    return loaded, job.plan(loaded)


def test_a_custom_optimizer_trains():
    table = {"optimizer": {"kind": "custom", "path": f"{__name__}:Sgd", "options": {"lr": 0.1, "warmup": 0.0}}}
    losses = [row["loss"] for row in trained(0, 1, Ddp(), table)["rows"]]
    assert losses[-1] < losses[0]


def test_the_forecast_reads_its_state_from_the_card(tmp_path):
    loaded, steps = planned(tmp_path, "")
    assert "GB per rank" in estimate(loaded, "base")[-1]
    assert check(loaded, steps[-1], steps) == []


def test_the_plan_refuses_it_where_it_cannot_work(tmp_path):
    loaded, steps = planned(tmp_path, 'strategy = {kind = "deepspeed"}\n')
    with pytest.raises(ConfigError, match=r"stages\.base: deepspeed x whole_tensors: ZeRO hands its optimizer vectors"):
        check(loaded, steps[-1], steps)
    other = job.load(
        tmp_path / "job.toml", [f'stages.base.optimizer.path="{__name__}:NoOptimizer"', "stages.base.optimizer.options={}"]
    )
    steps = job.plan(other)
    with pytest.raises(ConfigError, match="the custom card is no optimizer"):
        check(other, steps[-1], steps)
