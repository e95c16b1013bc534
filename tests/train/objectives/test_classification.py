"""The `classification` objective: loss and gradients of transformers' own classifier, which loads what comes out."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.model.checkpoint import write_checkpoint
from raylm.model.head import Asks
from raylm.model.load import kind_of_model, load_model
from raylm.model.scores import ask, causal
from raylm.model.value_head import with_value_head
from raylm.train.objectives.classification import Classification
from tests.model.tiny import tiny_checkpoint, tiny_model
from tests.train.objectives.preferences import assert_gradients, learned, micros

CLASSES = ("bad", "so so", "good")
ROWS = [
    {"tokens": np.array([1, 40, 41, 7]), "label": 2},
    {"tokens": np.array([1, 42]), "label": 0},
    {"tokens": np.array([1, 50, 51, 52, 53, 54]), "label": 1},
]


def classifier(model=None):
    made = with_value_head(model or tiny_model(vocab=70, hidden=32, layers=1), 3, CLASSES)
    made.score.weight.data.mul_(20)
    return made.eval()


def card(**options):
    return Classification(**options).for_model(classifier())


def test_loss_by_hand():
    """A head of zeros gives each of three classes a third; the first one is what a tie is taken for."""
    model = classifier()
    model.score.weight.data.zero_()
    found = learned(card(), model, micros(ROWS, "Labelled"))
    assert found.loss == pytest.approx(math.log(3)) and found.metrics["accuracy"] == pytest.approx(1 / 3)


@pytest.mark.parametrize("micro", [3, 1])
def test_loss_and_gradients_equal_transformers(micro):
    from transformers.models.llama.modeling_llama import LlamaForSequenceClassification

    ours = classifier()
    theirs = LlamaForSequenceClassification(copy.deepcopy(ours.config))
    theirs.load_state_dict(ours.state_dict())
    (whole,) = micros(ROWS, "Labelled")
    expected = theirs(input_ids=whole.tokens_BT, attention_mask=whole.attend_BT, labels=whole.columns["label"]).loss
    expected.backward()
    found = learned(card(), ours, micros(ROWS, "Labelled", micro=micro))
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_gradients(found.gradients, theirs)


def test_transformers_loads_what_comes_out_with_its_classes(tmp_path):
    from transformers import AutoModelForSequenceClassification

    at = tiny_checkpoint(tmp_path / "base", vocab=300)
    model = classifier(load_model(str(at)))
    write_checkpoint(Folder(str(tmp_path / "made")), model.config, model.state_dict(), str(at), start=str(at))
    (batch,) = micros(ROWS, "Labelled")
    expected = ask(model, card().inputs(batch, 0), Asks(labels=3)).label_BTC.sum(1)
    theirs = AutoModelForSequenceClassification.from_pretrained(tmp_path / "made").eval()
    assert theirs.config.id2label == dict(enumerate(CLASSES)) and theirs.config.label2id["good"] == 2
    torch.testing.assert_close(
        theirs(input_ids=batch.tokens_BT, attention_mask=batch.attend_BT).logits, expected, atol=1e-5, rtol=1e-5
    )
    with pytest.raises(ConfigError, match="an encoder or a classifier"):
        load_model(str(tmp_path / "made"))
    again = load_model(str(tmp_path / "made"), value_head=True)
    assert kind_of_model(again.config) == "classifier"
    with_value_head(again, 0, CLASSES)
    with pytest.raises(ConfigError, match="the rows have the classes"):
        with_value_head(again, 0, CLASSES[::-1])
    with pytest.raises(ConfigError, match="the rows have none"):
        with_value_head(again, 0)


def test_a_head_answers_what_it_can_and_nothing_else():
    (batch,) = micros(ROWS, "Labelled")
    for model, asks in (
        (classifier(), Asks(labels=2)),
        (classifier(), Asks()),
        (tiny_model(vocab=70, hidden=32, layers=1), Asks(labels=3)),
        (with_value_head(tiny_model(vocab=70, hidden=32, layers=1), 0), Asks(labels=3)),
    ):
        with pytest.raises(ConfigError, match="labels are asked of a model with"):
            ask(model, causal(batch), asks)


def test_planted_classes_are_learned():
    """A text's class is that of its first word; the words behind it say nothing."""
    draw = np.random.default_rng(0)

    def row():
        label = int(draw.integers(3))
        return {
            "tokens": np.array([1, draw.integers(10 + 10 * label, 20 + 10 * label), *draw.integers(40, 60, draw.integers(1, 5))]),
            "label": label,
        }

    model = classifier()
    train, held_out = micros([row() for _ in range(512)], "Labelled", 32), micros([row() for _ in range(100)], "Labelled")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for at in range(60):
        learned(card(), model, [train[at % len(train)]])
        optimizer.step()
    assert learned(card(), model, held_out).metrics["accuracy"] >= 0.95
