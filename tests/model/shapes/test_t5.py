"""T5 shapes: they are counted and built as written."""

from __future__ import annotations

import pytest

from raylm.model.shapes.t5 import T5
from tests.model.shapes.built import SMALL, counted


@pytest.mark.parametrize("table", [{}, {"intermediate_size": 48, "num_layers": 2}], ids=str)
def test_parameters_are_counted_without_building(table):
    counted(T5(**SMALL | table))


def test_the_decoder_starts_with_padding():
    config = counted(T5(**SMALL, dropout=0.25)).config
    assert (config.decoder_start_token_id, config.dropout_rate, config.num_decoder_layers) == (0, 0.25, 3)
