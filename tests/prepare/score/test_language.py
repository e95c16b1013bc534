# ruff: noqa: RUF001
"""Language: labels and scores of py3langid itself, on texts of many scripts and lengths."""

import random

import numpy as np
import pyarrow as pa
import pytest
from py3langid.langid import MODEL_FILE, LanguageIdentifier

from raylm.core.errors import ConfigError
from raylm.prepare.score.language import Language, probabilities

SAID = {
    "en": "All human beings are born free and equal in dignity and rights.",
    "de": "Alle Menschen sind frei und gleich an Würde und Rechten geboren.",
    "fr": "Tous les êtres humains naissent libres et égaux en dignité et en droits.",
    "es": "Todos los seres humanos nacen libres e iguales en dignidad y derechos.",
    "ru": "Все люди рождаются свободными и равными в своем достоинстве и правах.",
    "zh": "人人生而自由，在尊严和权利上一律平等。",
    "ja": "すべての人間は、生まれながらにして自由であり、かつ、尊厳と権利とについて平等である。",
    "ar": "يولد جميع الناس أحراراً متساوين في الكرامة والحقوق.",
    "el": "Όλοι οι άνθρωποι γεννιούνται ελεύθεροι και ίσοι στην αξιοπρέπεια και τα δικαιώματα.",
}


def table_of(texts):
    return pa.table({"text": pa.array(texts, pa.large_string())})


def test_labels_and_columns():
    card = Language(wanted=["en", "de"])
    made = card.score(table_of(list(SAID.values())))
    assert tuple(made) == card.columns() == ("language", "language_score", "language_wanted")
    assert made["language"].to_pylist() == list(SAID)
    assert made["language_score"].dtype == made["language_wanted"].dtype == np.float32
    assert (made["language_score"] > 0.5).all() and (made["language_score"] <= 1).all()
    # both wanted languages count, no other
    assert (made["language_wanted"][:2] >= made["language_score"][:2]).all() and (made["language_wanted"][2:] < 0.2).all()


def test_equal_to_py3langid():
    peer = LanguageIdentifier.from_model_file(MODEL_FILE, norm_probs=True)
    draw = random.Random(0)
    words = [word for text in SAID.values() for word in text.split()]
    texts = [
        *SAID.values(),
        "",
        " ",
        "12345 67",
        "\x00",
        "SHOUTED ENGLISH WORDS",
        "ÜBERALL GROSS",
        "cafe\u0301 e\u0301tait",
        "čeština srpski српски",
    ]
    texts += [" ".join(draw.choices(words, k=draw.choice([1, 3, 30, 300]))) for _ in range(300)]
    shares = probabilities(texts)
    labels = Language().score(table_of(texts))["language"].to_pylist()
    np.testing.assert_allclose(shares.sum(axis=1), 1, atol=1e-5)
    for text, row, label in zip(texts, shares, labels, strict=True):
        np.testing.assert_allclose(row, peer._decide(text), atol=2e-4, err_msg=repr(text))
        assert label == peer.classify(text)[0], repr(text)


def test_the_rest_of_a_batch_changes_nothing():
    texts = list(SAID.values())
    together = probabilities(texts)
    alone = np.concatenate([probabilities([text]) for text in texts])
    assert (together == alone).all()


def test_unknown_language():
    with pytest.raises(ConfigError, match="no language 'eng'"):
        Language(wanted=["eng"]).score(table_of(["a"]))
