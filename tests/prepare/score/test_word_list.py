"""A word list by hand: entries, shares, phrases; and against counting at every place."""

import gzip
import random
import re

import numpy as np
import pyarrow as pa
import pytest
from pydantic import ValidationError

from raylm.core.errors import ConfigError, DataError, StorageError
from raylm.prepare.score.word_list import WordList


def scored(card, texts):
    made = card.score(pa.table({"text": pa.array(texts, pa.large_string())}))
    assert tuple(made) == card.columns()
    count, share = made.values()
    assert count.dtype == np.int32 and share.dtype == np.float32
    return list(zip(count.tolist(), share.tolist(), strict=True))


def test_counts_and_shares():
    card = WordList(name="bad", words=["Darn", "hell", "son of a gun"])
    assert card.columns() == ("bad_count", "bad_share")
    texts = ["A darn fine day.", "DARN! darn, darned: shell", "the son of a gun went", "son of a", "", "...", "hell-bent"]
    assert scored(card, texts) == [(1, 0.25), (2, 0.5), (1, pytest.approx(4 / 6)), (0, 0), (0, 0), (0, 0), (1, 0.5)]


def test_overlaps_take_the_longest_of_those_that_begin_first():
    card = WordList(words=["a", "a b", "b c", "a b c d"])
    assert scored(card, ["a b c", "a b c d", "x b c a"]) == [(1, pytest.approx(2 / 3)), (1, 1), (2, 0.75)]


def test_scripts_without_spaces():
    assert scored(WordList(words=["坏词"]), ["这是坏词吗", "坏的词"]) == [(1, pytest.approx(0.4)), (0, 0)]


@pytest.mark.parametrize("packed", [False, True])
def test_a_file(tmp_path, packed):
    text = "\ufeff# a list\n\ndarn  # mild\nson of a gun\r\n".encode()
    path = tmp_path / ("list.txt.gz" if packed else "list.txt")
    path.write_bytes(gzip.compress(text) if packed else text)
    assert scored(WordList(path=str(path)), ["darn son of a gun", "mild list"]) == [(2, 1), (0, 0)]


def test_against_a_slow_count():
    draw = random.Random(0)
    entries = ["aa", "bb", "cc"]
    texts = ["".join(draw.choice(["aa", "AA", "bb", "xaa", "cc.", " ", " ", "\n", "dd"]) for _ in range(40)) for _ in range(200)]
    for text, (count, share) in zip(texts, scored(WordList(words=entries), texts), strict=True):
        words = [word for word in re.split(r"[^a-z]+", text.lower()) if word]
        assert count == sum(word in entries for word in words)
        assert share == pytest.approx(count / len(words) if words else 0)


def test_refusals(tmp_path):
    with pytest.raises(ValidationError, match="needs `path` or `words`"):
        WordList()
    with pytest.raises(ConfigError, match="no word"):
        scored(WordList(words=["..."]), ["a"])
    with pytest.raises(StorageError, match="no such file"):
        scored(WordList(path=str(tmp_path / "none.txt")), ["a"])
    (tmp_path / "broken.gz").write_bytes(gzip.compress(b"word")[:-4])
    with pytest.raises(DataError, match="unreadable list"):
        scored(WordList(path=str(tmp_path / "broken.gz")), ["a"])


def test_a_relative_path_is_placed(tmp_path, monkeypatch):
    (tmp_path / "list.txt").write_text("darn\n")
    monkeypatch.chdir(tmp_path)
    card = WordList(path="list.txt").placed(None)
    monkeypatch.chdir("/")
    assert scored(card, ["darn"]) == [(1, 1)]
    assert WordList(words=["a"]).placed(None) == WordList(words=["a"])
