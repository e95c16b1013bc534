"""Pipelines: the cut, and every schedule and composition against one rank."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.parallel.pipeline import balance
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import SHAPE
from tests.parallel.parity import assert_parity

FOUR = {**SHAPE, "num_layers": 4}
UNTIED = {**FOUR, "tie_embeddings": False}


@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=lambda card: card.kind)
def test_two_stages(strategy):
    assert_parity(2, strategy, mesh={"pipeline": 2}, micro=1)


def test_stages_and_data():
    assert_parity(4, Fsdp(), mesh={"pipeline": 2}, micro=1, model=FOUR)


def test_stages_and_data_ddp():
    assert_parity(4, Ddp(), mesh={"pipeline": 2}, micro=1, model=UNTIED)


def test_four_stages():
    assert_parity(4, Fsdp(), mesh={"pipeline": 4}, micro=2, model=FOUR)


@pytest.mark.parametrize("schedule", ["interleaved", "zero_bubble"])
@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=lambda card: card.kind)
def test_several_stages_per_rank(strategy, schedule):
    assert_parity(2, strategy, mesh={"pipeline": 2, "schedule": schedule}, micro=1, model=FOUR)
