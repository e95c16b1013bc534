"""All similar pairs of a sample against comparing all with all."""

import numpy as np

from raylm.prepare.dedup.fuzzy.recall import similar_pairs
from tests.prepare.dedup.fuzzy.test_verify import flat, share


def test_similar_pairs_are_those_of_all_with_all():
    draw = np.random.default_rng(0)
    sets = []
    for _ in range(60):
        whole = draw.integers(0, 1 << 40, 50).tolist()
        sets += [set(draw.permutation(whole)[: draw.integers(35, 51)].tolist()) for _ in range(4)]
    sets += [set(), set(), {1}, {1}]
    for least in (0.5, 0.8, 1.0):
        pairs, scores = similar_pairs(*flat(sets), least)
        found = {(one, other): score for (one, other), score in zip(pairs.tolist(), scores.tolist(), strict=True)}
        wanted = {}
        for one in range(len(sets)):
            for other in range(one + 1, len(sets)):
                if (score := share(sets[one], sets[other])) >= least:
                    wanted[one, other] = score
        assert found == wanted


def test_what_all_share_stays_bounded():
    pairs, _ = similar_pairs(*flat([{1, 2, 3}] * 500), 0.8, before=4)
    assert len(pairs) == 4 * 500 - 10
