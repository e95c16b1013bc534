"""Token rows: all tokens but the first count, in the real rows."""

from raylm.data.kinds.tokens import Tokens


def test_every_token_of_a_real_row_counts():
    batch = Tokens().collate([{"tokens": [4, 5, 6]}, {"tokens": [7, 8]}], [1.0, 0.0], pad_id=9)
    assert batch.tokens_BT.tolist() == [[4, 5, 6], [7, 8, 9]]
    assert batch.weight_BT.tolist() == [[0, 1, 1], [0, 0, 0]]


def test_a_longest_row_fills_its_length():
    assert Tokens().collate([Tokens().longest(6, 4)], [1.0], 0).weight_BT.sum() == 5
