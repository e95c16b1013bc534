"""Takes compiled blocks, proves that they learn the same."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.model.compiler import compiler_missing
from raylm.parallel.compiled import compile_blocks
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from tests.parallel.loops import losses, make_loop
from tests.parallel.parity import assert_parity


@pytest.mark.slow
@pytest.mark.parametrize("how", ["none", "selective", "full"])
def test_compiled_blocks_learn_the_same(tmp_path, how):
    runs = []
    for compiled in (False, True):
        loop, seen = make_loop(Ddp(), tmp_path / str(compiled), steps=3, compile=compiled, recompute=how)
        loop.run()
        runs.append(losses(seen))
    assert runs[1] == pytest.approx(runs[0], abs=1e-5)


@pytest.mark.slow
def test_compiled_blocks_that_are_sharded():
    assert_parity(2, Fsdp(), compile=True, abs_loss=1e-5)


def test_without_a_compiler_it_is_refused(monkeypatch):
    from torch._inductor import config

    monkeypatch.setattr(config.cpp, "cxx", ("no-such-compiler",))
    compiler_missing.cache_clear()
    with pytest.raises(ConfigError, match="no C\\+\\+ compiler"):
        compile_blocks([], "cpu")
    compiler_missing.cache_clear()
