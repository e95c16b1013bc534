"""Random mixtures: on the simplex, within the limit of epochs, the same for the same seed."""

from __future__ import annotations

import numpy as np
import pytest

from raylm.core.errors import ConfigError
from raylm.mixture.draws import LEAST, caps_of, draw, rounded, within


def test_no_source_is_repeated_more_often_than_allowed():
    # 100 rows of b, four times, are 400 of the 1,000 that are drawn
    caps = caps_of([10_000, 100], 1000, 4.0)
    assert caps.tolist() == [1.0, 0.4]
    drawn = draw(np.array([0.99, 0.01]), caps, 24, seed=0)
    assert (drawn[:, 1] <= 0.4 + 1e-12).all() and drawn[:, 1].max() > 0.2
    with pytest.raises(ConfigError, match=r"more than 4 epochs(.|\n)*--max-epochs 5"):
        caps_of([100, 100], 1000, 4.0)


def test_mixtures_are_shares_and_spread_over_the_simplex():
    natural = np.array([0.8, 0.15, 0.05])
    drawn = draw(natural, np.ones(3), 24, seed=3)
    assert drawn[0] == pytest.approx(natural)
    assert drawn.sum(1) == pytest.approx(np.ones(24)) and drawn.min() >= LEAST - 1e-12
    assert (np.ptp(drawn, axis=0) > 0.4).all(), "each source is tried from little to much"
    # more of them begin with the same: proxies that are there stay
    assert np.array_equal(draw(natural, np.ones(3), 30, seed=3)[:24], drawn)
    assert not np.allclose(draw(natural, np.ones(3), 24, seed=4)[1:], drawn[1:])


def test_what_lies_above_a_cap_goes_to_the_others_in_their_ratio():
    assert within(np.array([0.8, 0.1, 0.1]), np.array([0.4, 1.0, 1.0])) == pytest.approx([0.4, 0.3, 0.3])
    assert within(np.array([0.9, 0.1, 0.0]), np.array([0.5, 0.3, 1.0])) == pytest.approx([0.5, 0.3, 0.2])


def test_shares_of_a_job_file_sum_to_one_exactly():
    for shares in ([1 / 3, 1 / 3, 1 / 3], [0.99999, 0.000005, 0.000005], [0.2, 0.3, 0.5]):
        units = [round(share * 10_000) for share in rounded(shares)]
        assert sum(units) == 10_000 and min(units) >= 1
