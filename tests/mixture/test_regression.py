"""Regressions of losses over mixtures: laws that are known, errors of what was left out, ranks."""

from __future__ import annotations

import numpy as np
import pytest

from raylm.mixture.choose import choose
from raylm.mixture.draws import draw
from raylm.mixture.regression import features, fit, left_out, rank_correlation

NATURAL = np.array([0.7, 0.2, 0.1])


def law(shares, noise=0.0, seed=0):
    """Losses of three targets: each falls by a power of its own source, and a little by the next one's."""
    losses = 2.0 + 0.5 * shares**-0.3 + 0.1 * np.roll(shares, 1, axis=-1) ** -0.2
    return losses + np.random.default_rng(seed).normal(0, noise, losses.shape)


def test_a_law_of_powers_is_found_and_ranks_mixtures_that_were_never_seen():
    tried, new = draw(NATURAL, np.ones(3), 24, 0), draw(NATURAL, np.ones(3), 9, 99)[1:]
    surfaces = [fit(tried, column) for column in law(tried, 0.01).T]
    predicted = np.mean([surface.predict(new)[0] for surface in surfaces], axis=0)
    real = law(new).mean(1)
    assert rank_correlation(predicted, real) >= 0.9
    assert np.abs(predicted - real).max() < 0.1


def test_the_ridge_is_that_of_the_normal_equations_and_its_left_out_errors_are_those_of_fits_without_the_row():
    tried = draw(NATURAL, np.ones(3), 12, 1)
    losses = law(tried, 0.05)[:, 0]
    for one in fit(tried, losses).fits:
        raw = features(tried, one.form)
        x, y = (raw - raw.mean(0)) / np.where(raw.std(0) > 1e-12, raw.std(0), 1.0), losses - losses.mean()
        direct = np.linalg.solve(x.T @ x + one.penalty * len(x) * np.eye(x.shape[1]), x.T @ y)
        assert one.predict(tried) == pytest.approx(x @ direct + losses.mean(), abs=1e-6)
        # by hand: the same features and penalty, fitted without row 5, mean and all
        kept = np.arange(12) != 5
        design = np.concatenate([np.ones((12, 1)), x], axis=1)
        penalty = one.penalty * 12 * np.diag([0.0, *np.ones(x.shape[1])])
        without = np.linalg.solve(design[kept].T @ design[kept] + penalty, design[kept].T @ losses[kept])
        assert one.left_out[5] == pytest.approx(float(design[5] @ without), abs=1e-6)


def test_noise_is_not_taken_for_a_law():
    tried = draw(NATURAL, np.ones(3), 24, 0)
    noise = np.random.default_rng(5).normal(2.0, 0.1, 24)
    assert abs(rank_correlation(left_out(tried, noise), noise)) < 0.6
    assert rank_correlation(left_out(tried, law(tried).mean(1)), law(tried).mean(1)) > 0.95


def test_spearman_by_hand():
    assert rank_correlation(np.array([1.0, 2.0, 3.0, 4.0]), np.array([10.0, 30.0, 20.0, 40.0])) == pytest.approx(0.8)
    assert rank_correlation(np.array([1.0, 2.0, 3.0]), np.array([-1.0, -2.0, -3.0])) == pytest.approx(-1.0)
    # equal values stand at 1.5: ranks (1.5, 1.5, 3) and (1, 2, 3)
    assert rank_correlation(np.array([5.0, 5.0, 7.0]), np.array([1.0, 2.0, 3.0])) == pytest.approx(0.8660254)
    assert rank_correlation(np.ones(4), np.arange(4.0)) == 0.0


def test_the_optimum_is_found_within_caps_and_within_reach():
    tried, weights = draw(NATURAL, np.ones(3), 24, 0), np.ones(3) / 3
    surfaces = [fit(tried, column) for column in law(tried, 0.005).T]
    measured = law(tried) @ weights
    free = choose(surfaces, weights, tried, measured, np.ones(3), 0)
    assert float(law(free.shares[None])[0] @ weights) <= measured.min() + 0.01, "no worse than the best that was tried"
    # the law's own optimum gives each source about a third
    assert np.abs(free.shares - 1 / 3).max() < 0.15
    caps = np.array([1.0, 1.0, 0.15])
    inside = draw(NATURAL, caps, 24, 0)
    tight = choose([fit(inside, c) for c in law(inside).T], weights, inside, law(inside) @ weights, caps, 0)
    assert tight.shares[2] == pytest.approx(0.15, abs=0.02) and tight.shares.sum() == pytest.approx(1.0)
    assert np.abs(inside - tight.shares).sum(1).min() < 0.3
