"""Each bucket keeps its share, edges by hand or by quantile, for any cut."""

import numpy as np
import pyarrow as pa
import pytest

from raylm.prepare.select.buckets import Buckets
from raylm.prepare.select.lots import lots, points
from tests.prepare.corpora import corpus_of, decided, table_of

pytestmark = pytest.mark.ray


def _table(scores):
    return table_of([f"text {at}" for at in range(len(scores))]).append_column("score", pa.array(scores, pa.float32()))


def test_edges_by_hand(tmp_path, workers):
    scores = [0.1, 0.5, 0.5, 0.9, None]
    card = Buckets(column="score", edges=[0.5, 0.8], shares=[0.0, 1.0, 0.0])
    found, facts = decided(corpus_of(tmp_path, _table(scores), 2, workers), card)
    assert {row["row"]: row["reason"] for row in found} == {0: "not_selected", 3: "not_selected", 4: "no_score"}
    assert [(row["documents"], row["kept"]) for row in facts["buckets"]] == [(1, 0), (2, 2), (1, 0)]
    assert [row["scores"] for row in facts["buckets"]] == ["below 0.5", "0.5 to 0.8", "0.8 and up"]


def test_quantiles_are_exact_for_any_sharding(tmp_path, workers):
    scores = np.random.default_rng(0).normal(size=200).astype(np.float32)
    table = _table(scores)
    card = Buckets(column="score", num_buckets=4, shares=[0.0, 0.25, 0.5, 1.0])
    bucket = np.searchsorted(np.sort(scores)[[50, 100, 150]], scores, side="right")
    keep = points(lots(table["id"].to_pylist(), "buckets", 0)) < np.array(card.shares)[bucket]
    for cuts, count in ((1, 1), (2, 2), (7, 4)):
        found, facts = decided(corpus_of(tmp_path / str(cuts), table, cuts, workers, count), card)
        assert [row["row"] for row in found] == np.flatnonzero(~keep).tolist()
        assert [row["documents"] for row in facts["buckets"]] == [50] * 4
        assert facts["buckets"][3]["kept"] == 50 and facts["kept"] == keep.sum()


def test_what_does_not_fit_is_refused():
    for wrong in ({"shares": [1.0]}, {"edges": [2, 1], "shares": [1, 1, 1]}, {"num_buckets": 3, "shares": [1, 1]}):
        with pytest.raises(ValueError, match=r"edges|shares"):
            Buckets(column="score", **wrong)
