"""Compiled blocks: they learn the same. In ranks of their own: compilers keep state in a process."""

from __future__ import annotations

from typing import Any

import pytest

from raylm.core.errors import ConfigError
from raylm.model.compiler import compiler_missing
from raylm.parallel.compiled import compile_blocks
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.on_ranks import on_ranks
from tests.parallel.parity import assert_parity, trained


def both(rank: int, world: int, table: dict[str, Any]) -> list[list[float]]:
    """Losses without and with compiled blocks."""
    runs = [trained(rank, world, Ddp(), {**table, "steps": 3, "compile": compiled}) for compiled in (False, True)]
    return [[row["loss"] for row in run["rows"]] for run in runs]


@pytest.mark.slow
@pytest.mark.parametrize(
    ("how", "world"), [("none", 1), *(pytest.param(how, 2, marks=pytest.mark.long) for how in ("none", "selective", "full"))]
)
def test_compiled_blocks_learn_the_same(how, world):
    for plain, compiled in on_ranks(world, both, {"activation_checkpointing": how}, timeout_s=300):
        assert compiled == pytest.approx(plain, abs=1e-5)


@pytest.mark.slow
@pytest.mark.long
def test_compiled_blocks_that_are_sharded():
    assert_parity(2, Fsdp(), compile=True, abs_loss=1e-5)


def refused(rank: int, world: int) -> str:
    from torch._inductor import config

    config.cpp.cxx = ("no-such-compiler",)
    compiler_missing.cache_clear()
    with pytest.raises(ConfigError) as caught:
        compile_blocks([], "cpu")
    return str(caught.value)


def test_without_a_compiler_it_is_refused():
    assert "no C++ compiler" in on_ranks(1, refused)[0]
