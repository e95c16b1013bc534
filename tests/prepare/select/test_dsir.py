"""Documents like the target are drawn; weights and noise against a slow reference written from the paper."""

import math
from collections import Counter

import numpy as np
import pytest

from raylm.core.artifact import Documents
from raylm.data.shards import write_parquet
from raylm.prepare.select.dsir import Dsir, gumbel, log_ratio
from raylm.prepare.select.lots import lots
from tests.prepare.corpora import corpus_of, decided, table_of
from tests.prepare.select.test_ngrams import bag_of
from tests.stages import context

pytestmark = pytest.mark.ray

_CODE = ("def", "value", "return", "self", "for", "in", "if", "not", "none")
_PROSE = ("the", "old", "man", "went", "to", "sea", "and", "saw", "a", "whale")


def _texts(words, number, seed):
    draw = np.random.default_rng(seed)
    return [" ".join(draw.choice(words, 12)) for _ in range(number)]


def _target(root):
    ctx = context(root, "wiki")
    write_parquet(ctx.out, "documents-000000-00000.parquet", table_of(_texts(_PROSE, 30, 0)))
    ctx.commit(Documents, facts={}, rows={"documents-000000-00000.parquet": 30})


def test_documents_like_the_target_are_kept_for_any_sharding(tmp_path, workers):
    prose, code = _texts(_PROSE, 20, 1), _texts(_CODE, 60, 2)
    texts = [text for at in range(20) for text in (code[3 * at], prose[at], code[3 * at + 1], code[3 * at + 2])]
    table, made = table_of(texts), []
    for cuts, count in ((1, 1), (2, 2), (7, 4)):
        _target(tmp_path / str(cuts))
        found, facts = decided(corpus_of(tmp_path / str(cuts), table, cuts, workers, count), Dsir(target="wiki", share=0.25))
        made.append([row["row"] for row in found])
    assert made[0] == made[1] == made[2] and facts["kept"] == 20 and facts["target_ngrams"] == 30 * 23
    assert set(range(80)) - set(made[0]) == {at for at in range(80) if at % 4 == 1}


def test_the_draw_is_that_of_the_paper(tmp_path, workers):
    # texts so alike that noise decides
    texts = _texts(_PROSE + _CODE[:2], 60, 3)
    table = table_of(texts)
    _target(tmp_path)
    found, _ = decided(corpus_of(tmp_path, table, 3, workers), Dsir(target="wiki", num_documents=15, seed=5))
    assert sorted(set(range(60)) - {row["row"] for row in found}) == _slow(texts, table["id"].to_pylist(), 15, 5)


def test_log_ratio_by_hand():
    assert log_ratio(np.array([3, 0]), np.array([1, 1])).tolist() == pytest.approx([math.log(4 / 5 / 0.5), math.log(1 / 5 / 0.5)])


def test_noise_has_the_mean_and_spread_of_a_gumbel():
    noise = gumbel(np.random.default_rng(0).integers(0, 2**64, 200_000, dtype=np.uint64))
    assert abs(noise.mean() - 0.5772) < 0.01 and abs(noise.std() - math.pi / math.sqrt(6)) < 0.01
    assert np.isfinite(gumbel(np.array([0, 2**64 - 1], dtype=np.uint64))).all()


def _slow(texts, ids, number, seed):
    """The paper's weights, gram by gram in Python, and a sorted list."""
    target, raw = (sum(map(bag_of, some), Counter()) for some in (_texts(_PROSE, 30, 0), texts))
    p = {gram: (target[gram] + 1) / (target.total() + 10_000) for gram in raw}
    q = {gram: (raw[gram] + 1) / (raw.total() + 10_000) for gram in raw}
    points = [((int(lot) >> 12) + 0.5) / 2**52 for lot in lots(ids, "dsir", seed)]
    scores = [
        sum(n * math.log(p[gram] / q[gram]) for gram, n in bag_of(text).items()) - math.log(-math.log(point))
        for text, point in zip(texts, points, strict=True)
    ]
    return sorted(sorted(range(len(texts)), key=lambda at: -scores[at])[:number])
