"""Calibration rows: of every kind of row, in batches of equal length, cut to what the model can read."""

from __future__ import annotations

import numpy as np
import torch

from raylm.compress.calibration import Calibration, tokens_of
from raylm.core.artifact import Tokens
from tests.model.tiny import tiny_checkpoint
from tests.rows import counting_rows, make_rows


def test_rows_of_every_kind_give_their_tokens():
    assert tokens_of({"tokens": np.array([1, 2])}) == [1, 2]
    assert tokens_of({"prompt": [1], "chosen": [2, 3], "rejected": [4]}) == [1, 2, 3]
    assert tokens_of({"prompt": [1], "completion": [5], "label": True}) == [1, 5]


def test_every_token_is_in_one_batch_and_nothing_is_padded():
    rows = [np.full(length, length) for length in (3000, 5, 5, 3000, 5)]
    batches = Calibration(rows).batches()
    assert [tuple(each.shape) for each in batches] == [(3, 5), (1, 3000), (1, 3000)]
    assert sum(each.numel() for each in batches) == sum(map(len, rows))
    assert all(bool((each == each.shape[1]).all()) for each in batches)


def test_held_rows_are_others_than_those_that_are_calibrated_on(tmp_path):
    from transformers import AutoConfig

    path = str(tiny_checkpoint(tmp_path / "model", vocab=300, layers=1))
    config = AutoConfig.from_pretrained(path)
    for name, held_out in (("behind", 0), ("held", 4)):
        make_rows(tmp_path, name, Tokens, counting_rows(12), held_out=held_out)
        found = Calibration.open(str(tmp_path / name), path, config, 5, 4)
        assert (len(found.rows), len(found.held)) == (5, 4)
        calibrated = {tuple(map(int, row)) for row in found.rows}
        assert not calibrated & {tuple(map(int, row)) for row in found.held}
        assert all(len(row) <= config.max_position_embeddings for row in found.rows)
    assert all(torch.is_tensor(each) for each in found.batches())
