"""Rows in one rectangle, by hand: padding, masks, documents, shares of ranks."""

from __future__ import annotations

import numpy as np
import pytest

from raylm.data.batch import pad, share_of, with_documents

ROWS = [np.array([5, 9, 60]), np.array([7, 8, 9, 10, 11])]


def test_padding_by_hand():
    batch = pad(ROWS, [np.array([1, 0, 1]), np.ones(5)], pad_id=3)
    assert batch.tokens_BT.tolist() == [[5, 9, 60, 3, 3], [7, 8, 9, 10, 11]]
    assert batch.attend_BT.tolist() == [[1, 1, 1, 0, 0], [1] * 5]
    assert batch.weight_BT.tolist() == [[0, 0, 1, 0, 0], [0, 1, 1, 1, 1]]
    assert batch.row_weight_P.tolist() == [1, 1] and batch.counted_BT.tolist() == batch.attend_BT.tolist()


def test_a_row_that_only_fills_up_counts_nowhere():
    batch = pad(
        [*ROWS, *ROWS], [np.ones(len(row)) for row in [*ROWS, *ROWS]], 0, row_weights=[1, 0], columns={"label": [True, False]}
    )
    assert batch.weight_BT.sum(1).tolist() == [2, 0, 2, 0] and batch.counted_BT.sum(1).tolist() == [3, 0, 3, 0]
    assert batch.columns["label"].tolist() == [True, False]


def test_documents_of_a_packed_row_begin_anew_and_their_first_tokens_do_not_count():
    batch = with_documents(pad(ROWS, [np.ones(3), np.ones(5)], 0), [[0], [0, 2]])
    assert batch.document_BT is not None and batch.position_BT is not None
    assert batch.document_BT.tolist() == [[0, 0, 0, -1, -1], [0, 0, 1, 1, 1]]
    assert batch.position_BT.tolist() == [[0, 1, 2, 0, 0], [0, 1, 0, 1, 2]]
    assert batch.weight_BT.tolist() == [[0, 1, 1, 0, 0], [0, 1, 0, 1, 1]]


@pytest.mark.parametrize(("world", "micro"), [(1, 5), (2, 2), (3, 1), (7, 4)])
def test_shares_are_whole_and_equally_long(world, micro):
    shares = [share_of("abcde", rank, world, micro) for rank in range(world)]
    assert len({tuple(map(len, share)) for share in shares}) == 1
    assert all(len(part) <= micro for share in shares for part in share)
    items = [item for share in shares for part in share for item in part]
    assert sorted(item for item, weight in items if weight) == list("abcde")
    assert {item for item, weight in items if not weight} <= {"a"}
