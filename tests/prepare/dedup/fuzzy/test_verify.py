"""Exact Jaccard against Python's sets, and who goes against a slow reading of the rule."""

import numpy as np

from raylm.prepare.dedup.fuzzy.verify import jaccard, judge


def flat(sets):
    """(ends, values) of Python sets."""
    ends = np.concatenate([[0], np.cumsum([len(one) for one in sets])]).astype(np.int64)
    return ends, np.array([value for one in sets for value in sorted(one)], np.uint64)


def share(one, other):
    return len(one & other) / len(one | other) if one | other else 0.0


def test_jaccard_is_exact_unless_it_cannot_pass_the_floor():
    draw = np.random.default_rng(0)
    for at in range(600):
        one, other = (set(draw.integers(0, 40 + at, draw.integers(0, 300)).tolist()) for _ in range(2))
        other = set(list(other)[: draw.integers(1, 300)]) | set(list(one)[: draw.integers(0, 300)])
        ends, values = flat([one, other])
        wanted = share(one, other)
        assert jaccard(values, 0, ends[1], ends[1], ends[2], -1.0) == wanted
        floor = draw.random()
        found = jaccard(values, 0, ends[1], ends[1], ends[2], floor)
        assert found == wanted or (found == -1 and wanted <= floor)


def test_who_goes_is_the_rule_read_slowly():
    draw = np.random.default_rng(1)
    sets, groups, rows = [], [], []
    for group in range(40):
        whole = draw.integers(0, 1 << 30, 60).tolist()
        for _ in range(draw.integers(2, 9)):
            sets.append(set(draw.permutation(whole)[: draw.integers(30, 61)].tolist()) | set(draw.integers(0, 99, 3).tolist()))
            groups.append(group)
            rows.append(len(rows) - 20)
    for most in (1000, 2):
        nearest, scores, gone = judge(*flat(sets), np.array(groups), np.array(rows), 0.6, most)
        keepers: dict[int, list[int]] = {}
        for at, group in enumerate(groups):
            near = [(share(sets[at], sets[one]), -one) for one in keepers.get(group, [])[:most]]
            score, best = max(near) if near and rows[at] >= 0 else (0, 1)
            assert (scores[at], nearest[at], gone[at]) == (score, -best, bool(near) and rows[at] >= 0 and score >= 0.6)
            if not gone[at]:
                keepers.setdefault(group, []).append(at)


def test_no_document_is_dropped_for_a_neighbours_neighbour():
    chain = [set(range(at, at + 20)) for at in (0, 3, 6, 9)]
    nearest, scores, gone = judge(*flat(chain), np.zeros(4, np.int64), np.arange(4), 0.7, 10)
    assert gone.tolist() == [False, True, False, True] and nearest.tolist()[1] == 0 and nearest.tolist()[3] == 2
    assert abs(scores[1] - 17 / 23) < 1e-12
