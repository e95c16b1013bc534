"""Models compared by hand-made instances: what is paired, what is sure, what flipped, which slices are behind."""

from __future__ import annotations

import math
import random

import pytest

from raylm.evaluate import intervals
from raylm.evaluate.comparison import FLIPS, Column, compare, difference, flips, plain, slices
from raylm.evaluate.instances import Graded


def answers(right, facts=None, first=0, cluster=None):
    return [
        Graded(
            f"q{first + at}",
            {"answers": float(hit)},
            {"answers": 1.0},
            {**(facts or {}), **({"cluster": str(at // cluster)} if cluster else {})},
            f"question {at}",
            "yes" if hit else "no",
            5,
            0.1,
        )
        for at, hit in enumerate(right)
    ]


HIGH = {"t": {"answers": "high"}}


def test_two_models_of_right_and_wrong_by_hand():
    """100 instances: 4 lost, 10 won."""
    first, second = [1] * 50 + [0] * 50, [1] * 46 + [0] * 4 + [1] * 10 + [0] * 40
    made = difference(answers(first), answers(second), "answers", "high")
    assert made
    assert (made.first_value, made.second_value, made.difference) == (0.5, 0.56, pytest.approx(0.06))
    assert (made.num_lost, made.num_won, made.num_pairs, made.num_unpaired, made.test) == (4, 10, 100, 0, "mcnemar")
    assert made.p == intervals.mcnemar(4, 10)
    assert (made.low, made.high) == intervals.paired_share(4, 10, 100)


def test_only_instances_that_both_have_are_compared():
    first, second = answers([1, 1, 0, 1]), answers([0, 1, 1], first=2)
    made = difference(first, second, "answers", "high")
    assert made
    # q2 and q3 alone
    assert (made.num_pairs, made.num_unpaired, made.first_value, made.second_value) == (2, 3, 0.5, 0.5)
    assert difference(first, answers([1], first=9), "answers", "high") is None


def test_loss_of_which_less_is_better():
    rng = random.Random(1)
    first = [Graded(f"d{at}", {"loss": (n := rng.randint(5, 50)) * 2.0 + rng.gauss(0, 1)}, {"loss": n}) for at in range(60)]
    second = [one._replace(values={"loss": one.values["loss"] - 0.1 * one.weights["loss"]}) for one in first]
    (made,) = compare({"base": {"t": first}, "sft": {"t": second}}, {"t": {"loss": "low"}})
    assert made.difference == pytest.approx(-0.1)
    assert (made.low, made.high) == pytest.approx((-0.1, -0.1))
    assert (made.winner, made.test, made.num_won, made.num_lost) == ("sft", "permutation", 60, 0)
    assert made.p == made.adjusted == pytest.approx(1 / 10_001)


def test_rows_of_one_document_are_one_piece_of_evidence():
    """Ten documents of 20 questions each: in six of them the second model has all right, in one of them none."""
    first = [0] * 120 + [1] * 80
    second = [1] * 120 + [0] * 20 + [1] * 60
    blind = difference(answers(first), answers(second), "answers", "high")
    made = difference(answers(first, cluster=20), answers(second, cluster=20), "answers", "high")
    assert made and blind
    assert (made.test, blind.test) == ("permutation", "mcnemar")
    # of 2^7 swaps of the seven documents that differ, 16 are as extreme: at most one against the others
    assert made.p == pytest.approx(16 / 128)
    assert blind.p < 1e-10
    assert made.low <= 0 < made.high


def test_what_never_differs_has_an_interval_all_the_same():
    same = difference(answers([1] * 200, cluster=20), answers([1] * 200, cluster=20), "answers", "high")
    assert same and (same.low, same.high) == intervals.paired_share(0, 0, 10)
    assert Column.of(answers([0] * 200, cluster=20), "answers").interval() == intervals.wilson(0, 10)


def test_one_lucky_answer_is_no_proof_that_nothing_got_worse():
    """Twelve topics of twelve attacks, one flipped: no draw of topics is below 0, and the interval would begin there."""
    first, second = [0] * 144, [1] + [0] * 143
    same, better, worse = (
        difference(answers(one, cluster=12), answers(two, cluster=12), "answers", "high")
        for one, two in ((first, first), (first, second), (second, first))
    )
    assert same and better and worse
    assert same.low < better.low < 0 < better.high
    assert (worse.low, worse.high) == pytest.approx((-better.high, -better.low))
    # where all topics got better there is no doubt
    sure = difference(answers(first, cluster=12), answers([1, 0] * 72, cluster=12), "answers", "high")
    assert sure and sure.low > 0.4


def test_what_is_asked_twice_is_one_cluster():
    twice = [one._replace(id=name) for one in answers([1]) for name in ("a", "a#2")]
    assert Column.of(twice, "answers").clusters == ["a", "a"]


def test_p_values_are_adjusted_for_all_pairs_and_metrics():
    rng = random.Random(2)
    models = {name: {"t": answers([rng.random() < 0.5 for _ in range(100)])} for name in "abcd"}
    found = compare(models, HIGH)
    assert [(one.first, one.second) for one in found] == [("a", "b"), ("a", "c"), ("a", "d"), ("b", "c"), ("b", "d"), ("c", "d")]
    assert [one.adjusted for one in found] == intervals.benjamini_hochberg([one.p for one in found])
    assert not any(one.winner for one in found)
    best = compare(models | {"d": {"t": answers([1] * 100)}}, HIGH)
    assert {one.winner for one in best} == {"", "d"}
    assert compare(models, HIGH, [("d", "a")])[0].first == "d"


def test_flips_are_those_that_changed_with_both_outputs():
    first, second = answers([1, 0, 1, 0, 1]), answers([1, 1, 0, 0, 0])
    found = flips(first, second, "answers", "high")
    assert [(flip.id, flip.first_output, flip.second_output) for flip in found] == [
        ("q2", "yes", "no"),
        ("q4", "yes", "no"),
        ("q1", "no", "yes"),
    ]
    assert [flip.id for flip in flips(first, second, "answers", "low")] == ["q1", "q4", "q2"]
    many = flips(answers([1] * 50 + [0] * 50), answers([0] * 50 + [1] * 50), "answers", "high")
    assert len(many) == FLIPS
    assert sum(flip.second_value > flip.first_value for flip in many) == FLIPS // 2


def test_the_worst_slices_come_first_and_all_that_were_looked_at_are_counted():
    rng = random.Random(3)
    parts = [
        (answers([rng.random() < share for _ in range(60)], {"source": name, "odd": str(at)}, 100 * at))
        for at, (name, share) in enumerate({"good": 0.9, "bad": 0.2, "fine": 0.8}.items())
    ]
    small = answers([0] * 5, {"source": "small"}, 900)
    graded = [one for part in parts for one in part] + small
    found, looked = slices({"m": {"t": graded}}, HIGH)
    # three sources, three of the other fact; five instances are no slice
    assert looked == 6
    assert found[0].fact in ("source = bad", "odd = 1")
    assert found[0].count == 60 and found[0].value < 0.4 < found[0].rest
    assert found[0].low < found[0].value < found[0].high
    assert found[0].adjusted < 0.01
    assert all(one.value < one.rest for one in found)
    assert plain(found)[0]["fact"] == found[0].fact


def graded(values, metric="grade", weight=1.0):
    return [Graded(f"q{at}", {metric: value}, {metric: weight}) for at, value in enumerate(values)]


def test_values_that_are_all_the_same_are_not_known_to_the_last_digit():
    """20 rewards of 0.5 leave room for 17 % of others; 20 losses that are all the same say nothing of their spread."""
    half = Column.of(graded([0.5] * 20), "grade").interval()
    assert half == pytest.approx((0.5 - 0.16843348 / 2, 0.5 + 0.16843348 / 2))
    assert Column.of(graded([3.0] * 20, weight=2.0), "grade").interval() == (-math.inf, math.inf)
    # an interval of values that differ is the bootstrap's
    assert 0.4 < Column.of(graded([0.5] * 19 + [0.6]), "grade").interval().low < 0.51
    shifted = difference(graded([0.25] * 20), graded([0.5] * 20), "grade", "high")
    assert shifted and -0.1 < shifted.low < 0.1 < 0.4 < shifted.high
    same = difference(graded([0.5] * 20), graded([0.5] * 20), "grade", "high")
    assert same and (same.low, same.high) == pytest.approx((-0.16843348, 0.16843348))
    losses = difference(graded([3.0] * 20), graded([3.5] * 20), "grade", "low")
    assert losses and (losses.low, losses.high) == (-math.inf, math.inf)
    # of losses that differ from row to row and are the other's to the last digit
    rows = [float(at) for at in range(20)]
    equal = difference(graded(rows), graded(rows), "grade", "low")
    assert equal and (equal.low, equal.high) == (0.0, 0.0)
