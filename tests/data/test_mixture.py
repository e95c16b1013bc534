"""Mixture tables: exact shares after any draw, epochs per part, phases, and what a table may not say."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import pytest
from pydantic import ValidationError

from raylm.core.config import references
from raylm.core.errors import ConfigError
from raylm.data.mixture import Mixture, Part
from raylm.data.schedule import Mixed
from raylm.train.config import Train
from tests.hostile import ends


def mixture(*weights, **table) -> Mixture:
    count = len(weights) or len(table["phases"][0]["weights"])
    parts = [{"rows": f"r{at}", **({"weight": weights[at]} if weights and weights[at] else {})} for at in range(count)]
    return Mixture.model_validate({"parts": parts, **table})


def phases(*pairs):
    return [{"until": until, "weights": weights} for until, weights in pairs]


def exact_shares(cfg: Mixture, draws: int) -> list[list[Fraction]]:
    """Share of each part after each draw, by hand: one draw's weight added at a time."""
    shares, found = [Fraction(0)] * len(cfg.parts), []
    stages: list[tuple[int, list]] = [(round(p.until * draws), p.weights) for p in cfg.phases]
    stages = stages or [(draws, [p.weight for p in cfg.parts])]
    for draw in range(draws):
        weights = [Fraction(str(w)) for w in next(weights for end, weights in stages if draw < end)]
        shares = [share + weight / sum(weights) for share, weight in zip(shares, weights, strict=True)]
        found.append(shares)
    return found


CASES = {
    "two": mixture(0.7, 0.3),
    "one": mixture(2),
    "uneven": mixture(0.5, 0.25, 0.1, 0.1, 0.05),
    "many alike": mixture(*[1] * 13),
    "one giant, many small": mixture(90, *[1] * 10),
    "sevenths": mixture(1, 2, 4),
    "turn over": mixture(phases=phases((0.5, [1, 1, 1, 0, 0, 0]), (1.0, [0, 0, 0, 1, 1, 1]))),
    "all, then half": mixture(phases=phases((0.337, [1, 1, 1, 1, 1, 1]), (1.0, [0, 0, 0, 1, 1, 1]))),
    "three phases": mixture(phases=phases((0.3, [0.9, 0.1, 0]), (0.8, [0.33, 0.33, 0.34]), (1.0, [0.05, 0.05, 0.9]))),
    "short phases": mixture(phases=phases((0.002, [0.77, 0.23]), (0.004, [0.01, 0.99]), (1.0, [0.123, 0.877]))),
}


@pytest.mark.parametrize("case", list(CASES))
def test_every_part_is_within_one_row_of_its_share_after_any_draw(case):
    cfg, draws = CASES[case], 1999
    schedule = cfg.schedule([10] * len(cfg.parts), draws)
    parts, ordinals = schedule.at(0, draws)
    counts = [0] * len(cfg.parts)
    for draw, (part, shares) in enumerate(zip(parts.tolist(), exact_shares(cfg, draws), strict=True)):
        assert ordinals[draw] == counts[part]
        counts[part] += 1
        assert all(abs(count - share) < 1 for count, share in zip(counts, shares, strict=True)), (draw, counts)
        assert schedule.counts(draw + 1) == counts


def test_any_stretch_is_that_of_the_whole():
    schedule = CASES["three phases"].schedule([10] * 3, 5000)
    parts, ordinals = schedule.at(0, 5000)
    for first, count in ((0, 1), (1499, 3), (3990, 700), (4999, 1)):
        some = schedule.at(first, count)
        assert some[0].tolist() == parts[first : first + count].tolist()
        assert some[1].tolist() == ordinals[first : first + count].tolist()


def test_a_trillion_draws_cost_what_a_period_costs():
    cfg = mixture(phases=phases((0.9, [0.7, 0.2, 0.1]), (1.0, [0.1, 0.1, 0.8])))
    with ends():
        schedule = cfg.schedule([10] * 3, 10**12)
        parts, ordinals = schedule.at(10**12 - 10, 10)
    assert schedule.counts(10**12) == [64 * 10**10, 19 * 10**10, 17 * 10**10]
    assert ordinals[-1] == schedule.counts(10**12)[parts[-1]] - 1


def test_temperature_flattens_the_sizes():
    def share(temperature, sizes=(10_000, 100)):
        counts = mixture(None, None, temperature=temperature).schedule(list(sizes), 0).counts(10_100)
        return counts[1] / 10_100

    assert share(1.0) == pytest.approx(1 / 101, abs=1e-4)
    assert share(2.0) == pytest.approx(10 / 110, abs=1e-4)  # sqrt(100) of sqrt(10000) + sqrt(100)
    assert share(1e9) == pytest.approx(0.5, abs=1e-3)
    counts = Mixture.model_validate({"parts": [{"rows": "a"}, {"rows": "b"}]}).schedule([30, 10], 0).counts(8)
    assert counts == [6, 2]


def test_each_part_goes_through_its_own_epochs():
    mixed = Mixed([range(100, 105), range(200, 250)], mixture(0.5, 0.5).schedule([5, 50], 100))
    rows = [mixed[index] for index in mixed.indices(0, 100, seed=3)]
    small, large = [row for row in rows if row < 200], [row for row in rows if row >= 200]
    assert len(small) == 50 and len(large) == 50 and sorted(large) == list(range(200, 250))
    epochs = [small[at : at + 5] for at in range(0, 50, 5)]
    assert all(sorted(epoch) == list(range(100, 105)) for epoch in epochs) and len(set(map(tuple, epochs))) > 5
    again = [row for step in range(10) for row in mixed.indices(step * 10, 10, seed=3)]
    assert [mixed[row] for row in again] == rows
    assert mixed.place(4) == (0, 4) and mixed.place(5) == (1, 0)
    with pytest.raises(IndexError):
        mixed[55]


def test_the_held_out_rows_come_in_the_shares_of_the_whole_run():
    cfg = mixture(phases=phases((0.5, [1, 0]), (1.0, [0.5, 0.5])))
    schedule = cfg.average([100, 10])
    mixed = Mixed([range(100), range(100, 110)], schedule)
    assert schedule.counts(8) == [6, 2]
    first = mixed.first(8)
    assert sorted(first) == [0, 1, 2, 3, 4, 5, 100, 101]
    assert len(mixed.first(80)) == 70  # the small part has ten rows, not twenty


def test_small_shares_are_rounded_or_refused():
    counts = mixture(0.123456, 0.876544).schedule([1, 1], 0).counts(10_000)
    assert counts == [1235, 8765]
    with pytest.raises(ValidationError, match="the share of 'r1' is 1e-06"):
        mixture(0.999999, 0.000001)
    # of a temperature it is known when the rows are; a share that underflows is not left out in silence
    for temperature in (0.2, 0.01):
        with pytest.raises(ConfigError, match="the share of 'a' is"):
            Mixture(parts=[Part(rows="a"), Part(rows="b")], temperature=temperature).schedule([3, 100_000], 0)


@pytest.mark.parametrize(
    ("table", "said"),
    [
        ({"parts": [{"rows": "a", "weight": 1}, {"rows": "b"}]}, "every part has a weight or none"),
        ({"parts": [{"rows": "a", "weight": 1}], "temperature": 2.0}, "not two of them"),
        ({"parts": [{"rows": "a"}], "phases": phases((0.5, [1]))}, "the last must be 1.0"),
        ({"parts": [{"rows": "a"}], "phases": phases((0.5, [1]), (0.4, [1]), (1.0, [1]))}, "must grow"),
        ({"parts": [{"rows": "a"}], "phases": phases((1.0, [1, 2]))}, "needs 1 weights"),
        ({"parts": [{"rows": "a"}], "phases": phases((1.0, [0]))}, "not all of them 0"),
        ({"parts": [{"rows": "a"}, {"rows": "b"}], "phases": phases((1.0, [1, 1e-9]))}, "the share of 'b' is 1e-09"),
        ({"parts": [{"rows": "a", "weight": float("inf")}]}, "finite number"),
        ({"parts": [{"rows": "a"}], "temperature": 1e-320}, "greater than or equal to 0.01"),
    ],
)
def test_what_a_table_may_not_say(table, said):
    with pytest.raises(ValidationError, match=said):
        Mixture.model_validate(table)


def test_the_plan_sees_every_part():
    table = {"kind": "mixture", "parts": [{"rows": "web", "weight": 0.7}, {"rows": "code", "weight": 0.3}]}
    cfg = Train.model_validate({"stage": "train", "rows": table, "model": "base", "batch": 4, "steps": 2})
    found = [(ref.path, ref.value, "Tokens" in ref.kinds) for ref in references(cfg)]
    assert found[:2] == [(("rows", "parts", "0", "rows"), "web", True), (("rows", "parts", "1", "rows"), "code", True)]
    plain = Train.model_validate({"stage": "train", "rows": "web", "model": "base", "batch": 4, "steps": 2})
    assert [ref.path for ref in references(plain)] == [("rows",), ("model",)]


def test_random_mixtures_keep_within_one_row():
    draw = np.random.default_rng(1)
    for _ in range(30):
        count = int(draw.integers(2, 8))
        ends = sorted({round(float(draw.uniform(0.05, 0.95)), 2) for _ in range(draw.integers(0, 3))})
        table = [(end, [int(w) for w in draw.integers(0, 20, count) + (draw.random() < 0.5)]) for end in (*ends, 1.0)]
        if any(not sum(weights) for _, weights in table):
            continue
        cfg = mixture(phases=phases(*table))
        parts, _ = cfg.schedule([1] * count, 400).at(0, 400)
        counts = np.cumsum(np.eye(count, dtype=int)[parts], axis=0)
        for got, shares in zip(counts.tolist(), exact_shares(cfg, 400), strict=True):
            assert all(abs(count - share) < 1 for count, share in zip(got, shares, strict=True)), table


def test_weights_that_were_changed_since_they_were_chosen_are_not_called_chosen():
    facts = {"sources": ["r0", "r1"], "shares": [0.25, 0.75], "refused": ""}
    mixture(0.25, 0.75, chosen_by="m").check_chosen(facts, "m")
    mixture(1, 3, chosen_by="m").check_chosen(facts, "m")
    mixture(3, 1).model_copy(update={"parts": mixture(1, 3).parts[::-1]}).check_chosen(facts, "m")
    for other, report in (
        (mixture(0.3, 0.7), facts),
        (mixture(1, 3, 1), facts),
        (mixture(0, 0, temperature=2.0), facts),
        (mixture(1, 3), {}),
        (mixture(1, 3), facts | {"refused": "its rank correlation is low"}),
    ):
        with pytest.raises(ConfigError, match=r"do not come from the report.*it chose"):
            other.check_chosen(report, "m")
