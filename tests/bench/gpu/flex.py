"""flex_attention on the device: compiled for each case, so it comes last."""

from __future__ import annotations

from functools import partial

from tests.bench.gpu.attention import long_rows, written_out
from tests.bench.gpu.check import Check

CHECKS = {"flex_long": Check(partial(long_rows, "flex")), "flex": Check(partial(written_out, "flex"), 150)}
