"""The size of runs given in rows, tokens, steps and epochs, by hand."""

from __future__ import annotations

import pytest

from raylm.core.errors import ConfigError
from raylm.train.config import Train
from raylm.train.size import size_of


def of(facts=None, **keys):
    cfg = Train(stage="train", rows="rows", model="some/model", **keys)
    return size_of(cfg, [{"num_tokens": 25_600} if facts is None else facts], [100])[:2]


def test_tokens_are_as_many_rows_as_hold_them():
    # 256 tokens a row
    assert of(batch_tokens=2048, steps=5) == (8, 5)
    assert of(batch_tokens=2049, tokens=20_480) == (8, 10)
    assert of(batch=8, epochs=2) == (8, 25)
    assert of(batch=8, tokens=300) == (8, 1)


def test_neither_workers_nor_mesh_change_batch_or_length():
    for workers in (1, 2, 8):
        assert of(batch_tokens=2048, tokens=204_800, workers={"count": workers}) == (8, 100)


def test_what_cannot_be_known_is_said():
    with pytest.raises(ConfigError, match="batch_tokens needs rows that say"):
        of({}, batch_tokens=2048, steps=1)
    with pytest.raises(ConfigError, match="batch_tokens = 100 is less than a row of 256 tokens"):
        of(batch_tokens=100, steps=1)


@pytest.mark.parametrize(
    ("keys", "said"),
    [
        ({"batch": 8}, "one of `steps`, `epochs`, `tokens`"),
        ({"batch": 8, "steps": 1, "tokens": 5}, "one of `steps`, `epochs`, `tokens`"),
        ({"steps": 1}, "either `batch`"),
        ({"steps": 1, "batch": 8, "batch_tokens": 8}, "either `batch`"),
        ({"steps": 1, "batch": 8, "micro_batch": 0}, "at least 1"),
    ],
)
def test_one_size_and_one_length(keys, said):
    with pytest.raises(ValueError, match=said):
        Train(stage="train", rows="rows", model="some/model", **keys)
