"""Scores by transformers: the same whatever rows share a batch, and to the last position that a model has."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch

from raylm.evaluate.backends import transformers_scorer
from raylm.evaluate.backends.transformers_scorer import TransformersScorer, shared_beginnings
from tests.model.tiny import tiny_checkpoint, tiny_model


def test_rows_of_any_length_in_any_company(tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    rng = random.Random(0)
    rows = [[rng.randrange(3, 300) for _ in range(rng.randint(2, 40))] for _ in range(30)]
    # a row that the model itself goes on with is greedy
    with torch.no_grad():
        rows[7] = (
            tiny_model(vocab=300, layers=1).eval().generate(torch.tensor([[1, 5]]), max_new_tokens=6, do_sample=False)[0].tolist()
        )
    masks = [[0, *(rng.randint(0, 1) for _ in row[1:])] for row in rows]
    masks[7] = [0, 0] + [1] * (len(rows[7]) - 2)
    scorer = TransformersScorer(str(tmp_path))
    together = dict(scorer.scores(rows, masks, greedy=True))
    monkeypatch.setattr(transformers_scorer, "MICRO", 1)
    alone = dict(scorer.scores(rows, masks, greedy=True))
    assert together.keys() == alone.keys() == set(range(30))
    model = tiny_model(vocab=300, layers=1).eval()
    for at, (row, mask) in enumerate(zip(rows, masks, strict=True)):
        with torch.no_grad():
            says = model(torch.tensor([row])).logits[0].log_softmax(-1)
        counted = [place for place in range(1, len(row)) if mask[place]]
        known = sum(float(says[place - 1, row[place]]) for place in counted)
        assert together[at].nats == pytest.approx(known, abs=1e-4)
        assert alone[at].nats == pytest.approx(known, abs=1e-4)
        assert together[at].greedy == alone[at].greedy == all(int(says[place - 1].argmax()) == row[place] for place in counted)
    assert together[7].greedy
    assert all(score.seconds > 0 for score in together.values())


def test_a_batch_holds_so_many_tokens_and_the_longest_come_first(tmp_path, monkeypatch):
    tiny_checkpoint(tmp_path, vocab=300, layers=1)
    monkeypatch.setattr(transformers_scorer, "MICRO_TOKENS", 40)
    rows = [[5] * 30, [5] * 10, [5] * 20, [5] * 10, [5] * 10, [5] * 10]
    scorer = TransformersScorer(str(tmp_path))
    order = [at for at, _ in scorer.scores(rows, rows, greedy=False)]
    # 30 alone, 20 with one of 10, then the rest
    assert order == [0, 2, 1, 3, 4, 5]
    assert not any(score.greedy for _, score in scorer.scores(rows, rows, greedy=False))
    assert (scorer.positions(), scorer.vocabulary()) == (tiny_model(vocab=300, layers=1).config.max_position_embeddings, 300)


@pytest.fixture(scope="module")
def scorer(tmp_path_factory):
    return TransformersScorer(str(tiny_checkpoint(tmp_path_factory.mktemp("tiny"), vocab=300, layers=2, max_len=64)))


def drawn(seed=0):
    """Three questions with choices of different lengths, one of them as long as the model has positions, and single rows."""
    draw = np.random.default_rng(seed)
    rows, masks = [], []
    for before, choices in ((12, (1, 3, 2)), (60, (5, 1)), (30, (4, 4, 1, 2)), (20, (3,)), (4, (2, 2))):
        context = draw.integers(6, 300, before)
        for size in choices:
            rows.append([*context.tolist(), *draw.integers(6, 300, size).tolist()])
            masks.append([0] * before + [1] * size)
    return rows, masks


def test_scores_are_those_of_each_row_alone(scorer):
    rows, masks = drawn()
    together = dict(scorer.scores(rows, masks, greedy=True))
    alone = [next(iter(scorer.scores([row], [mask], greedy=True)))[1] for row, mask in zip(rows, masks, strict=True)]
    assert [together[at].nats for at in range(len(rows))] == pytest.approx([score.nats for score in alone], rel=1e-5)
    assert [together[at].greedy for at in range(len(rows))] == [score.greedy for score in alone]


def test_what_greedy_decoding_would_draw_is_seen(scorer):
    rows, masks = drawn()
    context = rows[0][:12]
    scores = dict(scorer.scores([[*context, token] for token in range(300)], [[*masks[0][:12], 1]] * 300, greedy=True))
    assert sum(score.greedy for score in scores.values()) == 1
    assert max(scores, key=lambda at: scores[at].nats) == next(at for at, score in scores.items() if score.greedy)


def test_what_counts_as_a_shared_beginning():
    rows, masks = drawn()
    groups, rest = shared_beginnings(rows, masks)
    assert groups == [[0, 1, 2], [3, 4], [5, 6, 7, 8]] and rest == [9, 10, 11]
