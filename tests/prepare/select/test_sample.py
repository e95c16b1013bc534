"""Samples are the same for any cut, a small one lies in a larger one, and amounts are exact."""

import pytest

from raylm.core.errors import DataError
from raylm.prepare.select.lots import lots, points
from raylm.prepare.select.sample import Sample
from tests.prepare.corpora import corpus_of, decided, table_of

pytestmark = pytest.mark.ray

TEXTS = [f"text {'x' * (at % 11)}" for at in range(120)]


def _rows(found):
    return [row["row"] for row in found]


def test_a_share_is_the_same_for_any_sharding(tmp_path, workers):
    table = table_of(TEXTS)
    drawn = points(lots(table["id"].to_pylist(), "sample", 3))
    made = [
        _rows(decided(corpus_of(tmp_path / str(cuts), table, cuts, workers, count), Sample(share=0.4, seed=3))[0])
        for cuts, count in ((1, 1), (2, 2), (7, 4))
    ]
    assert made[0] == made[1] == made[2] == [at for at in range(120) if drawn[at] >= 0.4]


def test_bytes_are_exact_within_one_document(tmp_path, workers):
    table = table_of(TEXTS)
    order = sorted(range(120), key=lambda at: lots(table["id"].to_pylist(), "sample", 0)[at] >> 32)
    found, facts = decided(corpus_of(tmp_path, table, 4, workers), Sample(num_bytes=500))
    gone = set(_rows(found))
    kept = [at for at in order if at not in gone]
    size = sum(len(TEXTS[at]) for at in kept)
    assert kept == order[: len(kept)] and size <= 500 < size + len(TEXTS[order[len(kept)]])
    assert facts["kept"] == len(kept)


def test_sources_have_shares_of_their_own(tmp_path, workers):
    card = Sample(share=0.5, shares={"source-*": 0.0, "source-1": 1.0})
    found, facts = decided(corpus_of(tmp_path / "a", table_of(TEXTS), 2, workers), card)
    assert _rows(found) == [at for at in range(120) if at % 3 != 1] and facts == {"documents": 120, "kept": 40}
    with pytest.raises(DataError, match="no source fits the pattern 'sauce'"):
        decided(corpus_of(tmp_path / "b", table_of(TEXTS), 2, workers), Sample(shares={"sauce": 0.5}))


def test_one_amount_is_needed():
    for wrong in ({}, {"share": 0.5, "num_bytes": 3}, {"shares": {"a": 2.0}}):
        with pytest.raises(ValueError, match="share"):
            Sample(**wrong)
