"""BERT shapes: they are counted and built as written."""

from __future__ import annotations

import pytest

from raylm.model.shapes.bert import Bert
from tests.model.shapes.built import SMALL, counted


@pytest.mark.parametrize("table", [{}, {"max_length": 40, "intermediate_size": 48}], ids=str)
def test_parameters_are_counted_without_building(table):
    counted(Bert(**SMALL | table))


def test_known_sizes():
    # bert-base-uncased with its masked language modelling head: 109,514,298 weights
    assert Bert(hidden_size=768, num_layers=12, num_heads=12).num_parameters(30_522) == 109_514_298


def test_dropout_is_a_key():
    config = counted(Bert(**SMALL, dropout=0.25)).config
    assert config.hidden_dropout_prob == config.attention_probs_dropout_prob == 0.25
