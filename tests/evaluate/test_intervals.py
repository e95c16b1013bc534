"""Statistics against numbers by hand, of the literature, and of scipy 1.17.1 (as constants: it is not installed)."""

from __future__ import annotations

import math

import numpy as np
import pytest

from raylm.evaluate import intervals


def test_wilson_as_in_the_literature():
    """Newcombe 1998 (https://doi.org/10.1002/(SICI)1097-0258(19980430)17:8<857::AID-SIM777>3.0.CO;2-E), by
    scipy.stats.binomtest(right, count).proportion_ci(0.95, "wilson")."""
    table = {
        (81, 263): (0.2552885198782742, 0.36620957698280004),
        (15, 148): (0.06238639953073629, 0.16048724172330803),
        (0, 20): (0.0, 0.16112515805281935),
        (1, 29): (0.006113214292762667, 0.17175521879320282),
    }
    for (right, count), expected in table.items():
        assert intervals.wilson(right, count) == pytest.approx(expected, abs=1e-12)
    # by hand, at z = 1: middle (0.5 + 0.05) / 1.1, half sqrt(0.025 + 0.0025) / 1.1
    one = math.erf(1 / math.sqrt(2))
    assert intervals.wilson(5, 10, one) == pytest.approx((0.5 - math.sqrt(0.0275) / 1.1, 0.5 + math.sqrt(0.0275) / 1.1))


@pytest.mark.parametrize(
    ("lost", "won", "p"),
    [
        (0, 0, 1.0),
        (1, 0, 1.0),
        (0, 5, 0.0625),  # 2 / 2**5
        (1, 7, 0.0703125),  # 2 * (1 + 8) / 2**8
        (6, 16, 0.052478790283203125),  # scipy.stats.binomtest(6, 22).pvalue, and the next ones
        (10, 20, 0.09873714670538905),
        (59, 6, 4.964650327128616e-12),
    ],
)
def test_mcnemar_is_the_exact_binomial_test(lost, won, p):
    assert intervals.mcnemar(lost, won) == pytest.approx(p, rel=1e-12)
    assert intervals.mcnemar(won, lost) == intervals.mcnemar(lost, won)


def test_shares_of_clusters_are_worth_their_clusters():
    """Ten clusters of 20 that are right or wrong as a whole are worth ten instances less one; clusters that are all alike 200.
    Both by (t of 199 / t of 9 degrees of freedom)^2: a design effect that ten clusters show is not known better."""
    whole, names = np.repeat([1.0] * 4 + [0.0] * 6, 20), np.repeat(np.arange(10), 20).tolist()
    fewer = (1.9719565 / 2.2621572) ** 2
    assert intervals.clustered_share(whole, names) == pytest.approx(intervals.wilson(3.6 * fewer, 9 * fewer), abs=1e-4)
    # design effect 20 * 10 / 9: nine instances' worth; none right shows nothing of it
    assert intervals.clustered_share([0.0] * 200, names) == intervals.wilson(0, 10)
    even = np.tile([1.0, 0.0], 100)
    assert intervals.clustered_share(even, names) == pytest.approx(intervals.wilson(100 * fewer, 200 * fewer), abs=1e-4)
    assert intervals.clustered_share([1.0, 1.0], ["a", "a"]) == (0.0, 1.0)


def test_intervals_of_shares_of_clusters_hold_the_truth():
    rng, held = np.random.default_rng(7), 0
    names = np.repeat(np.arange(40), 5).tolist()
    for _ in range(400):
        # beta-binomial: shares of documents spread around 0.3
        right = rng.random(200) < np.repeat(rng.beta(1.5, 3.5, 40), 5)
        low, high = intervals.clustered_share(right.astype(float), names)
        held += low <= 0.3 <= high
    assert 0.92 <= held / 400 <= 0.98


@pytest.mark.parametrize(("num", "size"), [(3, 12), (6, 12), (8, 9)])
def test_intervals_of_few_clusters_hold_the_truth_as_often(num, size):
    """As many as a task of attacks has topics: the normal quantile would hold it 85 to 92 times of a hundred."""
    rng, held = np.random.default_rng(8), 0
    names = np.repeat(np.arange(num), size).tolist()
    for _ in range(400):
        right = rng.random(num * size) < np.repeat(rng.beta(3, 3, num), size)
        low, high = intervals.clustered_share(right.astype(float), names)
        held += low <= 0.5 <= high
    assert held / 400 >= 0.935


def test_mcnemar_is_the_sum_of_the_tails():
    for count in (3, 9, 400, 1500):
        for few in (0, count // 3, count // 2):
            tail = sum(math.comb(count, k) for k in range(few + 1)) / 2**count
            assert intervals.mcnemar(few, count - few) == pytest.approx(min(1.0, 2 * tail))


def test_the_difference_of_paired_shares_by_hand():
    """Bonett and Price: (10 + 1) / 102 and (4 + 1) / 102, z sqrt((16 - 36 / 102) / 102) / sqrt(102)."""
    less, more = 5 / 102, 11 / 102
    half = 1.959963985 * math.sqrt((less + more - (more - less) ** 2) / 102)
    assert intervals.paired_share(4, 10, 100) == pytest.approx((more - less - half, more - less + half))
    low, high = intervals.paired_share(0, 0, 50)
    assert low < 0 < high


def test_students_t_by_table():
    """scipy.stats.t.ppf(0.975, freedom), and a table's 95 % at 10."""
    for freedom, t in {5: 2.5705818, 10: 2.2281389, 30: 2.0422725, 199: 1.9719565}.items():
        assert intervals.student(0.975, freedom) == pytest.approx(t, abs=3e-3)
    assert intervals.student(0.95, 10) == pytest.approx(1.8125, abs=1e-3)


def test_the_bootstrap_of_a_mean_is_as_wide_as_students_interval():
    values = np.random.default_rng(1).normal(3.0, 2.0, 60)
    low, high = intervals.bootstrap(values, np.ones(60))
    half = 2.0010 * values.std(ddof=1) / math.sqrt(60)  # t of 59 degrees of freedom
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.12 * half)
    assert intervals.bootstrap(values, np.ones(60)) == (low, high)
    assert intervals.bootstrap([1.0], [1.0]) == (-math.inf, math.inf)


def test_the_bootstrap_of_a_quotient_draws_values_and_weights_together():
    weights = np.random.default_rng(2).integers(1, 50, 80)
    assert intervals.bootstrap(2.5 * weights, weights) == pytest.approx((2.5, 2.5))


def test_rows_of_one_cluster_count_once():
    """Each of 30 values ten times: the interval is that of 30 values, not of 300."""
    values = np.random.default_rng(3).normal(0.0, 1.0, 30)
    single = intervals.bootstrap(values, np.ones(30))
    rows, names = np.repeat(values, 10), np.repeat(np.arange(30), 10).tolist()
    assert intervals.bootstrap(rows, np.ones(300), names) == pytest.approx(single)
    blind = intervals.bootstrap(rows, np.ones(300))
    assert (blind.high - blind.low) < 0.4 * (single.high - single.low)
    ones = np.ones(300)
    assert intervals.permutation((rows, ones), (rows + 0.3, ones), names) == pytest.approx(2 / 10_001, abs=3e-4)


def test_pairs_are_kept_together():
    """A shift that is the same on every instance has no width, however wide the instances are."""
    first = np.random.default_rng(4).normal(0.0, 100.0, 50)
    ones = np.ones(50)
    assert intervals.paired_bootstrap((first, ones), (first + 1.5, ones)) == pytest.approx((1.5, 1.5))


def test_the_permutation_test_by_hand():
    """Differences 1, 2, 3: of eight ways to swap, only all and none reach the sum of 6. With 1, 2, -3 all eight reach 0."""
    zero, one = np.zeros(3), np.ones(3)
    assert intervals.permutation((zero, one), (np.array([1.0, 2.0, 3.0]), one)) == 2 / 8
    assert intervals.permutation((zero, one), (np.array([1.0, 2.0, -3.0]), one)) == 1.0


def test_on_right_and_wrong_the_permutation_test_is_mcnemars():
    first, second = np.zeros(200), np.zeros(200)
    first[:10], second[10:30] = 1, 1
    ones = np.ones(200)
    assert intervals.permutation((first, ones), (second, ones)) == pytest.approx(intervals.mcnemar(10, 20), abs=0.01)


def test_slices_that_are_like_the_rest_are_told_from_those_that_are_not():
    rng = np.random.default_rng(5)
    rest, same, other = (rng.random(count) < share for count, share in ((300, 0.7), (40, 0.7), (40, 0.3)))
    ones = np.ones
    assert intervals.apart((same, ones(40)), (rest, ones(300))) > 0.05
    assert intervals.apart((other, ones(40)), (rest, ones(300))) < 0.001
    # weights of two take the way of any numbers, and draw the same
    two = (2 * same[:40], 2 * ones(40)), (2 * rest, 2 * ones(300))
    assert intervals.apart(*two) == pytest.approx(intervals.apart((same, ones(40)), (rest, ones(300))), abs=0.05)
    # one of four inside, one of four outside is as extreme in 2 of 4 ways when two are drawn: p = (n + 1) / (2000 + 1)
    assert intervals.apart((np.ones(2), ones(2)), (np.zeros(2), ones(2))) == pytest.approx(1 / 3, abs=0.04)


def test_benjamini_hochberg_by_hand():
    """And by scipy.stats.false_discovery_control."""
    assert intervals.benjamini_hochberg([0.01, 0.04, 0.03, 0.005, 0.5]) == pytest.approx([0.025, 0.05, 0.05, 0.025, 0.5])
    assert intervals.benjamini_hochberg([]) == []
    assert intervals.benjamini_hochberg([0.9]) == [0.9]


def test_what_a_number_of_instances_can_show():
    """At the difference that it names, Miettinen's formula gives the number of instances back."""
    for count in (100, 200, 1000):
        d = intervals.detectable(count, 0.2)
        assert (1.959964 * math.sqrt(0.2) + 0.841621 * math.sqrt(0.2 - d * d)) ** 2 / d**2 == pytest.approx(count, rel=1e-4)
    assert intervals.detectable(200, 0.2) == pytest.approx(0.0881, abs=5e-5)
    assert intervals.detectable(5, 0.2) == 1.0
    assert intervals.detectable_deviations(100) == pytest.approx(0.2802, abs=1e-4)


def test_the_power_that_is_told_is_the_power_that_is_had():
    rng = np.random.default_rng(6)
    d = intervals.detectable(300, 0.2)
    found = 0
    for _ in range(400):
        kinds = rng.multinomial(300, [(0.2 + d) / 2, (0.2 - d) / 2, 0.8])
        found += intervals.mcnemar(int(kinds[1]), int(kinds[0])) < 0.05
    assert 0.70 < found / 400 < 0.87


def test_numbers_that_are_all_the_same_show_no_more_than_how_many_they_are():
    """By hand: 1 - 0.025 ** (1 / 20) of others, as scipy.stats.binomtest(0, 20).proportion_ci(0.95) has it."""
    assert intervals.of_alike(0.0, 20, 1.0) == pytest.approx((-0.16843348, 0.16843348))
    assert intervals.of_alike(2.0, 20, math.inf) == intervals.of_alike(0.5, 1, 0.5) == (-math.inf, math.inf)
