"""Prompts: nothing of them counts in a loss."""

from raylm.data.kinds.prompts import Prompts


def test_nothing_of_a_prompt_counts():
    batch = Prompts().collate([{"tokens": [4, 5]}, Prompts().longest(3, 9)], [1.0, 1.0], pad_id=0)
    assert batch.attend_BT.tolist() == [[1, 1, 0], [1, 1, 1]] and not batch.weight_BT.any()
