"""The `kto` objective: by hand, and loss, KL and gradients against TRL's trainer."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raylm.model.scores import ask
from raylm.train.config import Train
from raylm.train.objectives.kto import Kto, Prepared
from tests.model.tiny import tiny_model
from tests.parallel.loops import SHAPE
from tests.train.objectives.preferences import (
    PAIRS,
    TEXTS,
    Peer,
    arguments,
    assert_gradients,
    learned,
    micros,
    tokenizer,
    two_models,
)

ROWS = [{"prompt": row["prompt"], "completion": row["chosen"], "label": at == 0} for at, row in enumerate(PAIRS)]


def judged(micro=8, rows=ROWS):
    return micros(rows, "Unpaired", micro=micro, mismatched=True)


def test_loss_and_metrics_by_hand():
    """A good answer of log-ratio 2, a bad one of log-ratio -1, a KL of 0.5."""
    model, (made,) = tiny_model(vocab=70, hidden=32, layers=1), judged()
    card = Kto(beta=0.5, desirable_weight=3.0, undesirable_weight=2.0)
    inputs = card.inputs(made, 0)
    scores = ask(model, inputs)
    reference_R = made.sums(scores.logprob_BT.detach()) - torch.tensor([2.0, -1.0])
    found = card.loss(scores, inputs, made, Prepared(reference_R, 0.5, 2.0, 2.0))
    # -log sigmoid has no part in it: 1 - sigmoid(0.5 (2 - 0.5)) and 1 - sigmoid(0.5 (0.5 + 1))
    expected = 3 / (1 + math.exp(0.75)) + 2 / (1 + math.exp(0.75))
    assert float(found.total.detach()) == pytest.approx(expected, rel=1e-5)
    metrics = {"loss": expected, "accuracy": 2, "margin": 3.0, "chosen_reward": 2.0, "rejected_reward": -1.0, "kl": 1.0}
    assert {name: float(value) for name, value in found.metrics.items()} == pytest.approx(metrics, rel=1e-4)


def test_of_equal_weights_all_rewards_are_0_and_the_kl_too():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    found = learned(Kto(), model, judged(), model)
    assert found.loss == pytest.approx(0.5) and found.metrics["kl"] == 0.0 and found.metrics["accuracy"] == 0.5


def test_a_batch_without_bad_answers_says_so():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    found = learned(Kto(), model, judged(rows=[{**row, "label": True} for row in ROWS]), model)
    assert found.metrics["chosen_reward"] == 0.0 and math.isnan(found.metrics["rejected_reward"]) and found.loss == 0.5


def test_one_row_has_no_other_to_estimate_the_kl_from():
    with pytest.raises(ValidationError, match="batch of one row"):
        Train(stage="train", rows="rows", model=SHAPE, objective=Kto(), batch=1, steps=1)
    Train(stage="train", rows="rows", model=SHAPE, objective=Kto(), batch=2, steps=1)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    from datasets import Dataset
    from trl import KTOConfig, KTOTrainer

    theirs, reference = two_models()
    policy, frozen = copy.deepcopy(theirs), copy.deepcopy(reference)
    rows = [{"prompt": row["prompt"], "completion": row["chosen"], "label": at != 1} for at, row in enumerate(TEXTS)]
    trainer = KTOTrainer(
        model=theirs,
        ref_model=reference,
        args=arguments(KTOConfig, tmp_path_factory.mktemp("kto"), beta=0.3),
        train_dataset=Dataset.from_list(rows),
        processing_class=tokenizer(),
    )
    return Peer(trainer, theirs, policy), frozen


@pytest.mark.parametrize("micro", [4, 1])
@pytest.mark.parametrize("options", [{}, {"desirable_weight": 0.4}, {"loss_type": "apo_zero_unpaired"}], ids=str)
def test_loss_kl_and_gradients_equal_trls(peer, options, micro):
    """TRL on all rows at once, since it takes the KL of each micro batch for itself; here micro batches change nothing."""
    (trainer, theirs, policy), reference = peer
    card = Kto(beta=0.3, undesirable_weight=1.5, **options)
    trainer.loss_type, trainer.calculate_KL = card.loss_type, card.loss_type == "kto"
    trainer.desirable_weight, trainer.undesirable_weight = card.desirable_weight, card.undesirable_weight
    trainer._metrics["eval"].clear()
    theirs.eval().zero_grad()
    given = list(trainer.train_dataset)
    expected = trainer.compute_loss(theirs, dict(trainer.data_collator(given)))
    expected.backward()
    metrics = {name: values[-1] for name, values in trainer._metrics["eval"].items()}
    rows = [
        {"prompt": np.array(row["prompt_ids"]), "completion": np.array(row["completion_ids"]), "label": row["label"]}
        for row in given
    ]
    found = learned(card, policy, judged(micro, rows), reference)
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-5) and found.metrics["loss"] == pytest.approx(found.loss)
    assert_gradients(found.gradients, theirs)
    named = {"kl": "kl", "chosen_reward": "rewards/chosen", "rejected_reward": "rewards/rejected", "margin": "rewards/margins"}
    assert {name: found.metrics[name] for name in named} == pytest.approx(
        {name: metrics[theirs] for name, theirs in named.items()}, rel=1e-4
    )
    assert (metrics["kl"] > 0.01) == (card.loss_type == "kto")
