"""The `auto_round` method: what the library tunes is what is written, and rows of one length are what it is given."""

from __future__ import annotations

import torch

from raylm.compress.calibration import Calibration
from raylm.compress.config import Compress
from raylm.compress.methods.auto_round import equal_rows
from raylm.compress.stage import compress
from raylm.core.artifact import Tokens
from raylm.model.load import load_model
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows


def test_the_tuned_weights_are_written_bit_by_bit(tmp_path):
    path = str(tiny_checkpoint(tmp_path / "base", vocab=300, layers=1))
    make_rows(tmp_path, "rows", Tokens, counting_rows(16))
    cfg = Compress(
        stage="compress", model=path, calibration=str(tmp_path / "rows"), calibration_rows=8,
        method={"kind": "auto_round", "group_size": 32, "steps": 2, "batch_size": 4},
    )  # fmt: skip
    done = compress(cfg, path, str(tmp_path / "rows"), str(tmp_path / "out"))
    assert done.variant == "quantized" and 0 < done.metrics["kl"] < 0.1 and done.facts["calibrated_on"][0] >= 6
    plain, found = (load_model(each).state_dict() for each in (path, str(tmp_path / "out")))
    assert [name for name in found if name.endswith("weight_packed")]
    assert len(plain) < len(found)


def test_rows_are_cut_to_a_length_that_most_of_them_have():
    rows, length = equal_rows(Calibration([torch.arange(n) for n in (4, 30, 20, 25)]))
    assert length == 20 and [tuple(row.shape) for row in rows] == [(1, 20)] * 3
