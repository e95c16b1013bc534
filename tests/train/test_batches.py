"""Batches of ranks: every rank gets its share, no row counts twice, the order depends on seed and step alone."""

from __future__ import annotations

import numpy as np
import pytest
import torch

from raylm.data.mixture import Mixture
from raylm.data.schedule import Mixed
from raylm.model.attention import install
from raylm.model.scores import ask
from raylm.train.batches import Batches
from raylm.train.objectives.next_token import NextToken
from tests.model.tiny import tiny_model
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
    assert sum(float(m.row_weight_P.sum()) for share in shares for m in share) == 5
    assert sum(float(m.weight_BT.sum()) for share in shares for m in share) == float(alone.weight_BT.sum())


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
    assert micro.weight_BT[0].tolist() == [0.0] * len(row["prompt"]) + [1.0] * len(row["chosen"])


def test_pairs_lie_chosen_first_and_only_answers_count():
    (micro,) = batches("Pairs", batch=2).at(0)
    picked = [ROWS[index] for index in batches(batch=2).indices(0)]
    assert micro.row_weight_P.sum() == 2
    for place, (row, side) in enumerate([(row, side) for side in ("chosen", "rejected") for row in picked]):
        whole = [*row["prompt"], *row[side]]
        assert micro.tokens_BT[place, : len(whole)].tolist() == whole
        assert micro.weight_BT[place].nonzero()[:, 0].tolist() == list(range(len(row["prompt"]), len(whole)))


def test_a_mixture_is_the_same_for_any_number_of_ranks_and_from_any_step():
    parts = [[{"tokens": np.full(4, 10 * part + row)} for row in range(size)] for part, size in ((0, 5), (1, 9), (2, 2))]
    table = {"parts": [{"rows": name, "weight": weight} for name, weight in (("a", 5), ("b", 4), ("c", 1))]}
    mixed = Mixed(parts, Mixture.model_validate(table).schedule([5, 9, 2], 100))

    def tokens(world, step):
        made = [Batches(mixed, "Tokens", batch=8, micro=3, seed=4, pad_id=0, rank=rank, world=world) for rank in range(world)]
        rows = [micro.tokens_BT[at, 0] for rank in made for micro in rank.at(step) for at in range(len(micro.row_weight_P))
                if micro.row_weight_P[at]]  # fmt: skip
        return sorted(int(row) for row in rows)

    for step in (11, 3, 0):
        assert tokens(1, step) == tokens(2, step) == tokens(4, step) == tokens(8, step)
    drawn = [row // 10 for step in range(10) for row in tokens(2, step)]
    assert [drawn.count(part) for part in range(3)] == [40, 32, 8]
    made = Batches(mixed, "Tokens", batch=8, micro=3, seed=4, pad_id=0, rank=0, world=1)
    assert len(made.first(10)) == 10 and batches().first(7) == list(range(7)) and len(batches().first(99)) == 23


def _losses(model, rows, kind, **options):
    made = Batches(rows, kind, batch=len(rows), micro=3, seed=0, pad_id=0, rank=0, world=1, **options)
    install(model)
    total, weight = torch.zeros(()), 0.0
    for micro in made.split(list(range(len(rows)))):
        inputs = NextToken().inputs(micro, 0)
        total = total + NextToken().loss(ask(model, inputs), inputs, micro).total
        weight += NextToken().weight(micro, inputs)
    return total, weight


@pytest.mark.parametrize("kind", ["Tokens", "Dialogues"])
def test_packed_rows_with_a_document_mask_are_the_rows_alone(kind):
    """Loss and gradient, also where rows end in padding and a document was cut in two."""
    names = ("tokens", "mask") if kind == "Dialogues" else ("tokens",)
    alone = [{name: row[name] for name in names} for row in ROWS]
    packed = []
    for at in (0, 3, 4, 10):
        group = alone[at : {0: 3, 3: 4, 4: 10, 10: 23}[at]]
        starts = np.cumsum([0, *(len(row["tokens"]) for row in group)])[:-1]
        packed.append({**{name: np.concatenate([row[name] for row in group]) for name in names}, "starts": starts})
    models = [tiny_model(vocab=64, hidden=32, layers=2) for _ in range(3)]
    expected, weight = _losses(models[0], alone, kind)
    found, same = _losses(models[1], packed, kind, document_mask=True)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=1e-6)
    assert same == weight
    blurred, more = _losses(models[2], packed, kind)
    assert abs(float((blurred / more - expected / weight).detach())) > 1e-3
    for loss in (expected, found):
        (loss / weight).backward()
    for left, right in zip(models[0].parameters(), models[1].parameters(), strict=True):
        torch.testing.assert_close(left.grad, right.grad, atol=1e-5, rtol=1e-4)


def test_a_document_mask_keeps_unpacked_rows_as_they_are():
    rows = [{"tokens": row["tokens"], "mask": row["mask"]} for row in ROWS]
    model = tiny_model(vocab=64, hidden=32, layers=1)
    found, expected = _losses(model, rows, "Dialogues", document_mask=True), _losses(model, rows, "Dialogues")
    assert float(found[0]) == pytest.approx(float(expected[0]), abs=1e-4) and found[1] == expected[1]
