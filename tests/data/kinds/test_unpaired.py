"""Unpaired answers: the completion counts, the label travels; mismatched rows keep prompt and label."""

import numpy as np

from raylm.data.kinds.unpaired import Unpaired
from raylm.train.batches import Batches

ROWS = [{"prompt": np.array([1, row]), "completion": np.array([10 + row, 2]), "label": row % 2 == 0} for row in range(5)]


def test_completions_count_and_labels_travel():
    batch = Unpaired().collate(ROWS[:2], [1.0, 0.0], pad_id=0)
    assert batch.tokens_BT.tolist() == [[1, 0, 10, 2], [1, 1, 11, 2]]
    assert batch.weight_BT.tolist() == [[0, 0, 1, 1], [0] * 4]
    assert batch.columns["label"].tolist() == [True, False]


def test_a_prompt_meets_the_same_other_completion_on_any_number_of_ranks():
    def pairs(world: int, micro: int) -> set[tuple[int, int, bool]]:
        found = set()
        for rank in range(world):
            made = Batches(ROWS, "Unpaired", batch=5, micro=micro, seed=1, pad_id=0, rank=rank, world=world, mismatched=True)
            for batch in made.at(0):
                assert batch.mismatched is not None
                for at, weight in enumerate(batch.row_weight_P.tolist()):
                    tokens = batch.mismatched.tokens_BT[at].tolist()
                    found |= {(tokens[1], tokens[2] - 10, bool(batch.columns["label"][at]))} if weight else set()
        return found

    alone = pairs(1, 5)
    assert len(alone) == 5 and all(prompt != completion and label == (prompt % 2 == 0) for prompt, completion, label in alone)
    assert {completion for _, completion, _ in alone} == set(range(5))
    assert alone == pairs(2, 2) == pairs(3, 1)
