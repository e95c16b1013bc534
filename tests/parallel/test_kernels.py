"""Fused kernels on a CPU: refused when required, otherwise not used."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.parallel.kernels import fuse_kernels
from tests.model.tiny import tiny_model


def test_a_cpu_has_no_fused_kernels():
    model = tiny_model(vocab=64, hidden=32, layers=1)
    before = [(type(module), module.forward.__func__) for module in model.modules()]
    assert not fuse_kernels(model, "auto", "cpu")
    assert [(type(module), module.forward.__func__) for module in model.modules()] == before
    with pytest.raises(ConfigError, match="made for GPUs, this is cpu"):
        fuse_kernels(model, "liger", "cpu")
