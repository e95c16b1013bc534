"""fastText: what is said where it is absent, and how answers are read; a real model wherever it is installed."""

import importlib.util

import numpy as np
import pyarrow as pa
import pytest

from raylm.core.errors import ArtifactError, ConfigError
from raylm.prepare.score.fast_text import FastText, _loaded, _probability

TABLE = pa.table({"text": pa.array(["good fine\ngreat text", "bad awful poor text", "good good fine"], pa.large_string())})
HERE = importlib.util.find_spec("fasttext") is not None


def test_absent_or_without_a_model(tmp_path):
    _loaded.cache_clear()
    if HERE:
        with pytest.raises(ArtifactError, match="there is no fastText model here"):
            FastText(model=str(tmp_path / "none.bin")).score(TABLE)
    else:
        with pytest.raises(ConfigError, match=r"fastText is not installed(.|\n)*pip install fasttext-numpy2-wheel"):
            FastText(model="lid.176.bin").score(TABLE)


def test_which_probability():
    labels, shares = ("__label__b", "__label__a"), np.array([0.75, 0.25])
    assert _probability(labels, shares, None) == 0.75
    assert _probability(labels, shares, "__label__a") == 0.25
    assert _probability(labels, np.array([1.00001, 0.0]), None) == 1.0
    # a text without a known word
    assert np.isnan(_probability((), np.array([]), None)) and np.isnan(_probability((), np.array([]), "__label__a"))


def test_columns_and_path(tmp_path, monkeypatch):
    assert FastText(model="m.bin").columns() == ("label", "score")
    assert FastText(model="m.bin", prefix="lid_").columns() == ("lid_label", "lid_score")
    monkeypatch.chdir(tmp_path)
    assert FastText(model="m.bin").placed(None).model == str(tmp_path / "m.bin")
    assert FastText(model="s3://bucket/m.bin").placed(None).model == "s3://bucket/m.bin"


@pytest.mark.skipif(not HERE, reason="fastText is no part of the locks")
def test_a_real_model(tmp_path):
    import fasttext

    rows = ["__label__hq good fine great text", "__label__cc bad awful poor text"] * 50
    (tmp_path / "rows.txt").write_text("\n".join(rows) + "\n")
    path = str(tmp_path / "quality.bin")
    fasttext.train_supervised(
        str(tmp_path / "rows.txt"), epoch=25, lr=0.5, thread=1, wordNgrams=2, bucket=1000, verbose=0
    ).save_model(path)
    made = FastText(model=path).score(TABLE)
    assert made["label"].to_pylist() == ["hq", "cc", "hq"] and (made["score"] > 0.8).all()
    one = FastText(model=path, label="hq").score(TABLE)["score"]
    assert one.dtype == np.float32 and one[0] > 0.8 and one[1] < 0.2
    with pytest.raises(ConfigError, match="no label 'hqq'"):
        FastText(model=path, label="hqq").score(TABLE)
    (tmp_path / "broken.bin").write_bytes(b"no model")
    with pytest.raises(ArtifactError, match="could be loaded"):
        FastText(model=str(tmp_path / "broken.bin")).score(TABLE)
