"""The largest scores stay: against a sorted list, for any cut into shards."""

import numpy as np
import pyarrow as pa
import pytest

from raylm.core.errors import DataError
from raylm.prepare.select.top import Top
from tests.prepare.corpora import corpus_of, decided, table_of

pytestmark = pytest.mark.ray


def _table(scores, languages=None):
    texts = ["word " * (1 + at % 5) for at in range(len(scores))]
    table = table_of(texts).append_column("score", pa.array(scores, pa.float32()))
    return table if languages is None else table.append_column("language", pa.array(languages))


def _rows(found):
    return [row["row"] for row in found]


def _lost(scores, weights, budget):
    """The slow way: sort, and take while it fits."""
    order = sorted(range(len(scores)), key=lambda at: (-scores[at], at))
    left, gone = budget, []
    for place, at in enumerate(order):
        left -= weights[at]
        if left < 0:
            gone = order[place:]
            break
    return sorted(gone)


def test_a_share_is_kept_for_any_sharding_with_ties(tmp_path, workers):
    scores = np.random.default_rng(0).integers(-4, 4, 90).astype(float).tolist()
    table = _table(scores)
    made = []
    for cuts, count in ((1, 1), (2, 2), (7, 4)):
        found, facts = decided(corpus_of(tmp_path / str(cuts), table, cuts, workers, count), Top(column="score", share=0.3))
        made.append(_rows(found))
        assert facts == {"documents": 90, "kept": 27, "no_score": 0}
        assert {row["reason"] for row in found} == {"not_selected"}
    assert made[0] == made[1] == made[2] == _lost(scores, [1] * 90, 27)


def test_bytes_fit_and_the_next_document_would_not(tmp_path, workers):
    scores = np.random.default_rng(1).integers(0, 3, 40).astype(float).tolist()
    table = _table(scores)
    weights = [len(text) for text in table["text"].to_pylist()]
    found, _ = decided(corpus_of(tmp_path, table, 3, workers), Top(column="score", num_bytes=237))
    assert _rows(found) == _lost(scores, weights, 237)


def test_each_language_has_its_own_line_and_rows_without_a_score_go(tmp_path, workers):
    scores = [0.1, 0.9, None, 0.5, float("nan"), 0.2, -1.0, -2.0]
    table = _table(scores, ["en", "en", "en", "de", "de", "de", None, None])
    found, facts = decided(
        corpus_of(tmp_path, table, 3, workers), Top(column="score", num_documents=1, smallest=True, per="language")
    )
    assert {row["row"]: row["reason"] for row in found} == {
        1: "not_selected", 2: "no_score", 3: "not_selected", 4: "no_score", 6: "not_selected"
    }  # fmt: skip
    assert facts["groups"] == {name: {"all": 2, "kept": 1} for name in ("en", "de", "")}


def test_what_cannot_be_ranked_is_reported(tmp_path, workers):
    with pytest.raises(DataError, match="reads the column 'quality', which the documents do not have"):
        decided(corpus_of(tmp_path, _table([1.0]), 1, workers), Top(column="quality", share=0.5))
    with pytest.raises(ValueError, match="one of share, num_documents and num_bytes"):
        Top(column="score", share=0.5, num_bytes=3)
