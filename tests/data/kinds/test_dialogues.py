"""Dialogues: what the mask marks counts."""

from raylm.data.kinds.dialogues import Dialogues


def test_the_mask_says_what_counts():
    batch = Dialogues().collate([{"tokens": [4, 5, 6, 7], "mask": [0, 1, 0, 1]}], [1.0], pad_id=0)
    assert batch.weight_BT.tolist() == [[0, 1, 0, 1]]
