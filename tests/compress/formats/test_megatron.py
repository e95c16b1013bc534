"""Megatron's layout by a compress stage; the conversion itself is proven in tests/model/megatron."""

from __future__ import annotations

from raylm.compress.config import Compress
from raylm.compress.stage import compress
from raylm.core.config import Makes
from raylm.model.megatron.convert import from_megatron
from tests.model.megatron.small import small_checkpoint
from tests.model.megatron.test_convert import assert_equal


def test_a_stage_writes_what_is_read_back_bit_by_bit(tmp_path):
    source = small_checkpoint(tmp_path / "hf", "llama")
    cfg = Compress(stage="compress", model=str(source), format={"kind": "megatron", "tensor": 2, "divisible": 8})
    assert cfg.makes() == Makes("Checkpoint", "export:megatron")
    written = compress(cfg, str(source), None, str(tmp_path / "mt"))
    assert written.variant == "export:megatron"
    assert written.metrics["bytes_after"] > written.metrics["bytes_before"] * 0.9
    from_megatron(str(tmp_path / "mt"), str(tmp_path / "back"))
    assert_equal(tmp_path / "back", source)
