"""Pairs: two sequences a row, the chosen ones first; the answers alone count."""

from raylm.data.kinds.pairs import Pairs

ROWS = [{"prompt": [1, 2], "chosen": [3], "rejected": [4, 5]}, {"prompt": [6], "chosen": [7], "rejected": [8]}]


def test_chosen_answers_come_first_and_answers_alone_count():
    batch = Pairs().collate(ROWS, [1.0, 0.0], pad_id=0)
    assert batch.tokens_BT.tolist() == [[1, 2, 3, 0], [6, 7, 0, 0], [1, 2, 4, 5], [6, 8, 0, 0]]
    assert batch.weight_BT.tolist() == [[0, 0, 1, 0], [0] * 4, [0, 0, 1, 1], [0] * 4]
    assert batch.counted_BT.sum(1).tolist() == [3, 0, 4, 0]
    assert Pairs().collate([Pairs().longest(5, 9)], [1.0], 0).weight_BT.sum(1).tolist() == [4, 4]


def test_margins_travel_where_rows_have_them():
    assert "margin" not in Pairs().collate(ROWS, [1.0, 1.0], pad_id=0).columns
    batch = Pairs().collate([ROWS[0], {**ROWS[1], "margin": 0.5}], [1.0, 1.0], pad_id=0)
    assert batch.columns["margin"].tolist() == [0.0, 0.5]


def test_each_sequence_has_its_sum():
    batch = Pairs().collate(ROWS, [1.0, 1.0], pad_id=0)
    assert batch.sums(batch.tokens_BT * batch.weight_BT).tolist() == [3, 7, 9, 8]
