"""Strategies and layouts: each trains as one rank does, to the digit."""

from __future__ import annotations

import pytest

from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.parity import assert_parity


@pytest.mark.parametrize("strategy", [Ddp(), Fsdp(), Fsdp(reshard=False), Fsdp(offload=True)], ids=repr)
def test_plain_data_parallel(strategy):
    assert_parity(3, strategy)


def test_hybrid_sharding():
    assert_parity(4, Fsdp(), mesh={"replicas": 2})
