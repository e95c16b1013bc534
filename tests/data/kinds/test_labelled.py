"""Labelled texts: every token counts, a class travels as a whole number and a score as a float."""

import torch

from raylm.data.kinds.labelled import Labelled


def test_classes_and_scores_travel():
    batch = Labelled().collate([{"tokens": [1, 5, 6], "label": 2}, {"tokens": [1, 7], "label": 0}], [1.0, 0.0], pad_id=0)
    assert batch.tokens_BT.tolist() == [[1, 5, 6], [1, 7, 0]] and batch.counted_BT.sum(1).tolist() == [3, 0]
    assert batch.columns["label"].tolist() == [2, 0] and batch.columns["label"].dtype == torch.int64
    scores = Labelled().collate([{"tokens": [1, 5], "label": 2.0}], [1.0], pad_id=0).columns["label"]
    assert scores.tolist() == [2.0] and scores.dtype == torch.float32
    assert Labelled().collate([Labelled().longest(5, 9)], [1.0], 0).tokens_BT.shape == (1, 5)
