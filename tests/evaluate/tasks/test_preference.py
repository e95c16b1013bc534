"""Pairs: the likelier answer wins and a tie counts half."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.core.errors import DataError
from raylm.evaluate.instances import means
from raylm.evaluate.lm import LM
from raylm.evaluate.tasks.preference import Preference
from tests.model.tiny import tiny_checkpoint, tiny_model, tiny_tokenizer


def pair(chosen, rejected):
    return {"prompt": np.array([1, 3, 40, 4]), "chosen": np.array(chosen), "rejected": np.array(rejected)}


def test_the_likelier_answer_wins_by_transformers_own_numbers(tmp_path):
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    with torch.no_grad():
        order = (
            tiny_model(vocab=300, layers=1).eval()(torch.tensor([[1, 3, 40, 4]])).logits[0, -1].argsort(descending=True).tolist()
        )
    likely, unlikely = order[0], order[-1]
    rows = [pair([likely], [unlikely]), pair([unlikely], [likely]), pair([likely], [unlikely]), pair([likely, 9], [likely, 9])]
    assert means(Preference(rows="rows").grade(LM(str(tmp_path)), rows)) == {"preference": 0.625}


def test_pairs_that_lack_a_side_are_a_tenth_at_most_together(tmp_path):
    """One side of ten in each: each of both questions may leave a tenth out, the task may not leave out two."""
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    rows = [pair([], [5]), pair([5], []), *(pair([5], [6]) for _ in range(8))]
    with pytest.raises(DataError, match="no grade: 2 of 10 instances have none"):
        Preference(rows="rows").grade(LM(str(tmp_path)), rows)
    assert len(Preference(rows="rows").grade(LM(str(tmp_path)), rows[1:] + rows[-1:])) == 9


def test_a_shorter_answer_wins_with_a_model_that_knows_nothing(tmp_path):
    """Sums, not means: log p of the whole answer is what preference alignment compares."""
    blind = tiny_model(vocab=300, layers=1)
    blind.model.embed_tokens.weight.data.zero_()
    blind.save_pretrained(tmp_path)
    tiny_tokenizer(300).save_pretrained(tmp_path)
    rows = [pair([5], [6, 7]), pair([5, 6, 7], [8]), pair([5, 6], [7, 8])]
    assert means(Preference(rows="rows").grade(LM(str(tmp_path)), rows))["preference"] == pytest.approx(0.5)
