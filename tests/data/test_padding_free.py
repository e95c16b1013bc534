"""Sequences without padding, by hand: what they share stands once, places lead back to each sequence alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.data.kinds.dialogues import Dialogues
from raylm.data.kinds.pairs import Pairs
from raylm.data.kinds.unpaired import Unpaired
from raylm.data.padding_free import Tree, _rows, lay

PAIR = {"prompt": np.array([5, 6, 7]), "chosen": np.array([8, 9]), "rejected": np.array([10])}
SHORT = {"prompt": np.array([11]), "chosen": np.array([12]), "rejected": np.array([13, 14])}


def test_a_pair_by_hand():
    batch = Pairs().collate([PAIR, SHORT], [1.0, 0.0], 3, padding_free=True)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 8, 9, 7, 10, 11, 12, 11, 13, 14]]
    assert batch.document_BT.tolist() == [[0, 0, 1, 1, 1, 2, 2, 3, 3, 4, 4, 4]]
    assert batch.prefix_BT.tolist() == [[0, 0, 0, 0, 0, 0, 0, 3, 3, 4, 4, 4]]
    assert batch.position_BT.tolist() == [[0, 1, 2, 3, 4, 2, 3, 0, 1, 0, 1, 2]]
    assert batch.weight_BT.tolist() == [[0, 0, 0, 1, 1, 0, 1, 0, 0, 0, 0, 0]]
    assert batch.place_SL.tolist() == [[0, 1, 2, 3, 4], [7, 8, -1, -1, -1], [0, 1, 5, 6, -1], [9, 10, 11, -1, -1]]
    assert batch.counted_BT.tolist() == [[1] * 7 + [0] * 5]
    assert batch.sums(batch.weight_BT).tolist() == [2, 0, 1, 0]


def test_each_sequence_is_what_it_is_with_padding():
    """Also completions of one prompt, which share it however many they are."""
    padded, laid = (Pairs().collate([PAIR, SHORT, PAIR], [1.0, 1.0, 0.0], 0, padding_free=free) for free in (False, True))
    for name in ("tokens_BT", "weight_BT", "attend_BT"):
        one, other = getattr(padded, name), laid.by_sequence(getattr(laid, name))
        assert (one * padded.attend_BT).tolist() == other.tolist()
    assert laid.sums(laid.counted_BT).tolist() == padded.counted_BT.sum(1).tolist()
    assert laid.tokens_BT.numel() < padded.attend_BT.sum()
    answers = [np.array([7]), np.array([8, 8]), np.array([9, 9, 9])]
    group = lay([Tree(np.array([1, 2, 3, 4]), answers, [np.ones(len(a)) for a in answers])], 0, row_weights=[1.0])
    assert group.by_sequence(group.tokens_BT).tolist() == [[1, 2, 3, 4, 7, 0, 0], [1, 2, 3, 4, 8, 8, 0], [1, 2, 3, 4, 9, 9, 9]]
    assert group.tokens_BT.shape == (1, 12) and group.prefix_BT.unique().tolist() == [0]


def test_nothing_is_shared_by_rows_of_one_sequence():
    rows = [{"prompt": np.array([4, 5]), "completion": np.array([6]), "label": True}] * 2
    batch = Unpaired().collate(rows, [1.0, 1.0], 0, padding_free=True)
    assert batch.prefix_BT is None and batch.columns["label"].tolist() == [True, True]
    assert batch.document_BT.tolist() == [[0, 0, 0, 1, 1, 1]]
    dialogue = {"tokens": np.array([4, 5, 6, 7]), "mask": np.array([1, 1, 1, 1]), "starts": np.array([0, 2])}
    for apart, documents, weight in ((False, [0, 0, 0, 0], [0, 1, 1, 1]), (True, [0, 0, 1, 1], [0, 1, 0, 1])):
        batch = Dialogues().collate([dialogue], [1.0], 0, padding_free=True, document_mask=apart)
        assert batch.document_BT.tolist() == [documents] and batch.weight_BT.tolist() == [weight]


@pytest.mark.parametrize(("lengths", "rows"), [([3, 4, 5], 2), ([9, 1, 1], 2), ([12], 1), ([2] * 7, 2), ([5, 5, 5], 3)])
def test_rows_are_bounded_and_about_equally_long(lengths, rows):
    found = _rows(lengths, 8)
    assert len(found) == rows and sorted(at for row in found for at in row) == list(range(len(lengths)))
    assert max(sum(lengths[at] for at in row) for row in found) <= max(8, *lengths)


def test_several_rows_lead_back_to_their_sequences():
    batch = lay([Pairs().tree(PAIR), Pairs().tree(SHORT)], 3, row_weights=[1.0, 1.0], max_length=7)
    assert batch.tokens_BT.tolist() == [[5, 6, 7, 8, 9, 7, 10], [11, 12, 11, 13, 14, 3, 3]]
    assert batch.document_BT[1].tolist() == [0, 0, 1, 1, 1, -1, -1] and batch.attend_BT[1].tolist() == [1] * 5 + [0] * 2
    expected = Pairs().collate([PAIR, SHORT], [1.0, 1.0], 0)
    assert torch.equal(batch.by_sequence(batch.tokens_BT), expected.tokens_BT * expected.attend_BT)
