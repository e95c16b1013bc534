"""Classifiers: one output and several, against the model called on one text; labels that are not there; loaded once."""

import numpy as np
import pyarrow as pa
import pytest
import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer, BertConfig, BertForSequenceClassification

from raylm.core.config import references
from raylm.core.errors import ArtifactError, ConfigError
from raylm.prepare.score.classifier import Classifier, _loaded
from tests.model.tiny import tiny_tokenizer

TEXTS = ["A short one.", "", "Something rather longer, which is padded by nothing at all. " * 20, "Zwölf", "A short one."]


def saved(folder, num_labels, **more):
    torch.manual_seed(num_labels)
    tokenizer = tiny_tokenizer()
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2, "intermediate_size": 64}
    config = BertConfig(
        vocab_size=len(tokenizer), max_position_embeddings=128, num_labels=num_labels, pad_token_id=0, **sizes, **more
    )
    BertForSequenceClassification(config).save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def one(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("one"), 1)


@pytest.fixture(scope="module")
def three(tmp_path_factory):
    return saved(tmp_path_factory.mktemp("three"), 3, id2label={0: "fine", 1: "toxic", 2: "spam"})


def table_of(texts):
    return pa.table({"text": pa.array(texts, pa.large_string())})


def logits_of(path, text):
    tokenizer, model = AutoTokenizer.from_pretrained(path), AutoModelForSequenceClassification.from_pretrained(path).eval()
    ids = tokenizer(text, truncation=True, max_length=100)["input_ids"]
    with torch.no_grad():
        return model(torch.tensor([ids])).logits[0] if ids else None


def test_one_output_is_the_value(one):
    card = Classifier(model=one, column="edu", max_tokens=100, batch_tokens=150)
    made = card.score(table_of(TEXTS))
    assert tuple(made) == card.columns() == ("edu",)
    assert made["edu"].dtype == np.float32
    for text, value in zip(TEXTS, made["edu"], strict=True):
        if text:
            assert value == pytest.approx(logits_of(one, text).item(), abs=1e-5)
        else:
            assert np.isnan(value)


def test_labels_are_probabilities(three):
    card = Classifier(model=three, labels={"toxic": "toxicity", "spam": "is_spam"}, max_tokens=100)
    made = card.score(table_of(TEXTS[2:]))
    assert tuple(made) == card.columns() == ("toxicity", "is_spam")
    for at, text in enumerate(TEXTS[2:]):
        wanted = logits_of(three, text).softmax(-1)
        assert (made["toxicity"][at], made["is_spam"][at]) == pytest.approx((wanted[1].item(), wanted[2].item()), abs=1e-5)


def test_labels_must_be_the_models(one, three):
    for card, said in (
        (Classifier(model=one, labels={"a": "b"}, max_tokens=8), "no labels"),
        (Classifier(model=three, max_tokens=8), "several labels"),
        (Classifier(model=three, labels={"toxc": "b"}, max_tokens=8), "Did you mean 'toxic'"),
        (Classifier(model=three, labels={"toxic": "b"}), "the model reads 128"),
    ):
        with pytest.raises(ConfigError, match=said):
            card.score(table_of(["a"]))


def test_loaded_once_and_not_pickled_with_the_card(one):
    import pickle

    card = Classifier(model=one, max_tokens=8)
    card.score(table_of(["a"]))
    held = _loaded.cache_info().misses
    again = pickle.loads(pickle.dumps(card))
    again.score(table_of(["a"]))
    assert _loaded.cache_info().misses == held and len(pickle.dumps(card)) < 2000


def test_the_model_is_a_reference_that_plan_checks(tmp_path):
    (found,) = references(Classifier(model="scorer"))
    assert (found.value, found.kinds) == ("scorer", ("Checkpoint",))
    with pytest.raises(ArtifactError, match="no model could be loaded"):
        Classifier(model=str(tmp_path)).score(table_of(["a"]))
