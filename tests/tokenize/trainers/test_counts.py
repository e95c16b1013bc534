"""Counts over the cluster: the same table for any shards, workers and memory; held-out documents are not looked at."""

import pyarrow as pa
import pytest

from raylm.core.config import WorkerSpec
from raylm.core.errors import DataError
from raylm.data.records import is_held_out
from raylm.tokenize.trainers import counts as module
from raylm.tokenize.trainers.counts import count_texts, count_words
from raylm.tokenize.trainers.pattern import Pattern
from tests.stages import context
from tests.tokenize.samples import TEXTS, documents_of, table

PATTERN = Pattern.of("gpt2", None)


def _count(root, name, documents, ray, count=2, **options):
    ctx = context(root, name, workers=ray)
    options = {"held_out": 0.1, "max_words": 10_000, **options}
    return count_words(ctx, documents, PATTERN, workers=WorkerSpec(count=count), **options)


def _plain(counted):
    return [*zip(counted.words.to_pylist(), counted.counts.to_pylist(), strict=True)], counted[2:]


@pytest.mark.ray
def test_any_shards_workers_partitions_and_memory(tmp_path, workers, monkeypatch):
    rows = table(*TEXTS)
    train = [text for id, text in zip(rows["id"].to_pylist(), TEXTS, strict=True) if not is_held_out(id, 0.1)]
    assert 0 < len(train) < len(TEXTS)
    expected = _plain(count_texts(train, PATTERN))
    documents = {num: documents_of(tmp_path, f"docs{num}", num) for num in (1, 2, 7)}
    for num, count in ((1, 1), (2, 1), (2, 2), (7, 2)):
        made = _count(tmp_path, f"count{num}-{count}", documents[num], workers, count)
        assert _plain(made) == expected
    assert _plain(_count(tmp_path, "small", documents[2], workers, most=20)) == expected
    monkeypatch.setattr(module, "_PART_BYTES", 2000)
    assert _plain(_count(tmp_path, "parts", documents[2], workers)) == expected
    assert _plain(_count(tmp_path, "parts7", documents[7], workers)) == expected
    few = _count(tmp_path, "few", documents[7], workers, max_words=30)
    assert _plain(few)[0] == expected[0][:30] and few.facts()["rare_pretokens_left_out"] == expected[1][0] - 30


@pytest.mark.ray
def test_a_part_of_the_text(tmp_path, workers):
    documents = documents_of(tmp_path, "docs", 3)
    made = _count(tmp_path, "part", documents, workers, sample_bytes=300, held_out=0.0)
    size = max(len(text.encode()) for text in TEXTS)
    assert 300 <= made.num_bytes < 300 + 3 * size
    with pytest.raises(DataError, match="the train split is empty"):
        _count(tmp_path, "none", documents, workers, held_out=0.999999999)


def test_texts_in_memory():
    made = count_texts(["b a b", "c"], PATTERN)
    assert _plain(made) == ([(b" a", 1), (b" b", 1), (b"b", 1), (b"c", 1)], (4, 4, 6))
    assert made.counts.type == pa.uint64() and len(count_texts([], PATTERN).words) == 0
