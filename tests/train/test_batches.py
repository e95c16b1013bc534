"""Takes rows and steps, proves that every rank gets its share, no row counts twice and order depends on seed and step alone."""

from __future__ import annotations

import pytest

from raylm.train.batches import Batches
from tests.parallel.loops import fixed_rows

ROWS = fixed_rows()


def batches(kind="Dialogues", *, rank=0, world=1, batch=5, micro=2, seed=0):
    return Batches(ROWS, kind, batch=batch, micro=micro, seed=seed, pad_id=0, rank=rank, world=world)


@pytest.mark.parametrize("kind", ["Tokens", "Dialogues", "Pairs"])
@pytest.mark.parametrize(("world", "micro"), [(1, 5), (2, 2), (3, 1), (4, 8), (7, 1)])
def test_ranks_share_a_batch_whole_and_meet_equally_often(kind, world, micro):
    shares = [batches(kind, rank=rank, world=world, micro=micro).at(3) for rank in range(world)]
    assert len({len(share) for share in shares}) == 1
    (alone,) = batches(kind, micro=5).at(3)
    assert sum(m.weight for share in shares for m in share) == alone.weight
    assert sum(float(m.row_weight_P.sum()) for share in shares for m in share) == 5
    assert sum(float(m.padded.weight_BT.sum()) for share in shares for m in share) == float(alone.padded.weight_BT.sum())


def test_an_epoch_holds_every_row_once_and_the_next_another_order():
    made = batches()
    order = [row for step in range(10) for row in made.indices(step)]
    assert sorted(order[:23]) == list(range(23))
    assert sorted(order[23:46]) == list(range(23))
    assert order[:23] != order[23:46]


def test_order_depends_on_seed_and_step_alone():
    assert batches(rank=1, world=2, micro=7).indices(4) == batches().indices(4)
    assert batches(seed=1).indices(4) != batches().indices(4)


def test_a_dialogue_counts_what_its_mask_says_and_a_prompt_never():
    (micro,) = batches(batch=1).at(0)
    row = ROWS[batches(batch=1).indices(0)[0]]
    assert micro.weight == len(row["chosen"])
    assert micro.padded.weight_BT[0].tolist() == [0.0] * len(row["prompt"]) + [1.0] * len(row["chosen"])


def test_pairs_lie_chosen_first_and_only_answers_count():
    (micro,) = batches("Pairs", batch=2).at(0)
    picked = [ROWS[index] for index in batches(batch=2).indices(0)]
    assert micro.weight == 2
    for place, (row, side) in enumerate([(row, side) for side in ("chosen", "rejected") for row in picked]):
        whole = [*row["prompt"], *row[side]]
        assert micro.padded.tokens_BT[place, : len(whole)].tolist() == whole
        assert micro.padded.weight_BT[place].nonzero()[:, 0].tolist() == list(range(len(row["prompt"]), len(whole)))
