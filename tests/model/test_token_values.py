"""Values of many sequences in batches, against transformers' own classifier."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError, DataError
from raylm.model.token_values import TokenValues, batches
from raylm.model.value_head import with_value_head
from tests.model.tiny import tiny_checkpoint, tiny_model


@pytest.fixture(scope="module")
def reward(tmp_path_factory):
    """A folder with a reward model of 64 positions."""
    at = tmp_path_factory.mktemp("reward")
    model = with_value_head(tiny_model(vocab=300, hidden=32, layers=1, max_len=64), 3)
    model.score.weight.data.mul_(20)
    model.save_pretrained(at)
    return at


def test_values_are_those_of_transformers(reward):
    from transformers import AutoModelForSequenceClassification

    oracle = AutoModelForSequenceClassification.from_pretrained(reward)
    sequences = [[5, 9, 60], [7], list(range(3, 40)), [8, 8], list(range(50, 60))]
    for most in (16, 1000):
        found = TokenValues(str(reward), batch_tokens=most)(sequences)
        for tokens, value_T in zip(sequences, found, strict=True):
            assert len(value_T) == len(tokens)
            with torch.no_grad():
                wanted = float(oracle(torch.tensor([tokens])).logits[0, 0])
            assert float(value_T[-1]) == pytest.approx(wanted, abs=1e-5)
            assert abs(wanted) > 1e-3


def test_what_cannot_be_scored_is_refused(reward, tmp_path):
    values = TokenValues(str(reward))
    for tokens, words in (([], "without tokens"), ([3] * 65, "65 tokens, the reward model 64"), ([3, 300], "token 300")):
        with pytest.raises(DataError, match=words):
            values([[5], tokens])
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    with pytest.raises(ConfigError, match="no value head"):
        TokenValues(str(tmp_path))


def test_batches_hold_sequences_of_like_length():
    assert batches([1, 9, 2], 10) == [[0, 2], [1]]
    assert batches([30, 1, 1], 10) == [[1, 2], [0]]
    assert batches([], 10) == []
