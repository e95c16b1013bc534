"""Boundaries of packed rows against numbers by hand and a loop over tokens."""

import numpy as np
import pytest

from raylm.data.boundaries import cu_seqlens, document_ids, position_ids


def test_by_hand():
    assert cu_seqlens([0, 3, 5], 7).tolist() == [0, 3, 5, 7]
    assert position_ids([0, 3, 5], 7).tolist() == [0, 1, 2, 0, 1, 0, 1]
    assert document_ids([0, 3, 5], 7).tolist() == [0, 0, 0, 1, 1, 2, 2]
    # a row that begins in the middle of a document, and one without a boundary
    assert cu_seqlens([2], 4).tolist() == [0, 2, 4] and position_ids([], 3).tolist() == [0, 1, 2]
    assert cu_seqlens(np.array([0, 1, 2], dtype=np.int32), 3).dtype == np.int32


@pytest.mark.parametrize("seed", range(5))
def test_against_a_loop(seed):
    draw = np.random.default_rng(seed)
    length = int(draw.integers(1, 60))
    starts = sorted({0, *draw.integers(0, length, 5).tolist()})
    positions, documents, at, document = [], [], 0, -1
    for token in range(length):
        if token in starts:
            at, document = 0, document + 1
        positions.append(at)
        documents.append(document)
        at += 1
    assert position_ids(starts, length).tolist() == positions and document_ids(starts, length).tolist() == documents
