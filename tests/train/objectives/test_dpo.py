"""The `dpo` objective: the losses by hand and against TRL's trainer on the same model, reference and pairs."""

from __future__ import annotations

import copy
import math
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch
from pydantic import ValidationError

from raylm.data.kinds.pairs import Pairs
from raylm.model.scores import ask
from raylm.train.config import Train
from raylm.train.objectives.dpo import Dpo, Prepared
from tests.model.tiny import tiny_model
from tests.train.objectives.preferences import (
    PAIRS,
    TEXTS,
    arguments,
    assert_gradients,
    learned,
    micros,
    tokenizer,
    two_models,
)


def batch():
    (micro,) = micros(PAIRS)
    return micro


def scored(model, micro):
    with torch.no_grad():
        return ask(model, Dpo().inputs(micro, 0))


def loss(card, model, micro, reference_S):
    return card.loss(scored(model, micro), card.inputs(micro, 0), micro, Prepared(reference_S))


def test_a_policy_that_equals_its_reference_loses_log_two():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    found = learned(Dpo(), model, [batch()], model)
    assert found.loss == pytest.approx(math.log(2))
    assert found.metrics["margin"] == 0.0
    assert found.metrics["accuracy"] == 0.5  # two ties


def test_loss_and_metrics_by_hand():
    """A uniform policy over 70 tokens, and a reference that is given."""
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    reference = torch.tensor([-14.0, -7.0, -9.0, -16.0])
    found = loss(Dpo(beta=0.5), model, batch(), reference)
    nat = math.log(70)
    chosen = [0.5 * (-3 * nat + 14), 0.5 * (-2 * nat + 7)]
    rejected = [0.5 * (-2 * nat + 9), 0.5 * (-4 * nat + 16)]
    margins = [c - r for c, r in zip(chosen, rejected, strict=True)]
    assert float(found.total) == pytest.approx(sum(math.log1p(math.exp(-margin)) for margin in margins), rel=1e-5)
    expected = {
        "margin": sum(margins),
        "chosen_reward": sum(chosen),
        "rejected_reward": sum(rejected),
        "accuracy": sum(margin > 0 for margin in margins),
        "loss": float(found.total),
    }
    assert {name: float(value) for name, value in found.metrics.items()} == pytest.approx(expected, rel=1e-4)


def test_a_pair_that_only_fills_up_weighs_nothing():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    whole = batch()
    filled = Pairs().collate(PAIRS, [1.0, 0.0], 0)
    sum_S = whole.sums(scored(model, whole).logprob_BT * Dpo().inputs(whole, 0).weight_BT)
    found = loss(Dpo(), model, filled, sum_S - torch.tensor([1.0, 2.0, 3.0, 4.0]))
    assert float(found.total) == pytest.approx(math.log1p(math.exp(-0.1 * (1 - 3))), rel=1e-4)


def test_variants_by_hand():
    """One pair of log-ratios 2 (an answer of 4 tokens) and -1 (of 2 tokens)."""
    table = {
        "sigmoid": math.log1p(math.exp(-1.5)),
        "sigmoid_norm": math.log1p(math.exp(-0.5)),
        "hinge": 0.0,
        "ipo": 0.0,
        "nca_pair": math.log1p(math.exp(-1)) + 0.5 * math.log1p(math.exp(1)) + 0.5 * math.log1p(math.exp(-0.5)),
        "sppo_hard": 1.0,
        "apo_zero": 1 / (1 + math.e) + 1 / (1 + math.exp(0.5)),
        "apo_down": 1 / (1 + math.exp(-1)) + 1 / (1 + math.exp(1.5)),
    }
    rows = [{"prompt": np.array([1, 4]), "chosen": np.array([5, 6, 7, 2]), "rejected": np.array([8, 2])}]
    model, (made,) = tiny_model(vocab=70, hidden=32, layers=1), micros(rows)
    sum_S = made.sums(scored(model, made).logprob_BT)
    for loss_type, expected in table.items():
        found = loss(Dpo(loss_type=loss_type, beta=0.5), model, made, sum_S - torch.tensor([2.0, -1.0]))
        assert float(found.total) == pytest.approx(expected, abs=1e-5), loss_type
        assert float(found.metrics["margin"]) == pytest.approx(1.5, abs=1e-5), loss_type
    for card, expected in (
        (Dpo(beta=0.5, label_smoothing=0.1), 0.9 * math.log1p(math.exp(-1.5)) + 0.1 * math.log1p(math.exp(1.5))),
        (
            Dpo(beta=0.5, loss_type="robust", label_smoothing=0.1),
            (0.9 * math.log1p(math.exp(-1.5)) - 0.1 * math.log1p(math.exp(1.5))) / 0.8,
        ),
    ):
        found = loss(card, model, made, sum_S - torch.tensor([2.0, -1.0]))
        assert float(found.total) == pytest.approx(expected, abs=1e-5)


def test_options_that_would_change_nothing_are_refused():
    with pytest.raises(ValidationError, match="label_smoothing changes nothing in the loss 'ipo'"):
        Dpo(loss_type="ipo", label_smoothing=0.1)
    with pytest.raises(ValidationError, match="needs label_smoothing"):
        Dpo(loss_type="exo_pair")


class Peer(NamedTuple):
    """TRL's trainer, its policy, its rows as pairs; and the same policy and reference, untouched by it."""

    trainer: Any
    theirs: Any
    pairs: list[dict[str, Any]]
    policy: Any
    reference: Any


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    theirs, reference = two_models()
    policy, frozen = copy.deepcopy(theirs), copy.deepcopy(reference)
    data = Dataset.from_list(TEXTS)
    args = arguments(DPOConfig, tmp_path_factory.mktemp("dpo"), beta=0.3, per_device_eval_batch_size=4)
    trainer = DPOTrainer(
        model=theirs, ref_model=reference, args=args, train_dataset=data, eval_dataset=data, processing_class=tokenizer()
    )
    pairs = [{side: np.array(row[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")} for row in trainer.eval_dataset]
    return Peer(trainer, theirs, pairs, policy, frozen)


def test_loss_and_rewards_equal_trls(peer):
    """One evaluation by TRL's own DPOTrainer: TRL has no function that takes log-probabilities."""
    expected, theirs = learned(Dpo(beta=0.3), peer.policy, micros(peer.pairs), peer.reference), peer.trainer.evaluate()
    assert theirs["eval_loss"] == pytest.approx(expected.loss, abs=1e-5)
    assert theirs["eval_rewards/margins"] == pytest.approx(expected.metrics["margin"], abs=1e-4)
    assert theirs["eval_rewards/chosen"] == pytest.approx(expected.metrics["chosen_reward"], abs=1e-4)
    assert theirs["eval_rewards/rejected"] == pytest.approx(expected.metrics["rejected_reward"], abs=1e-4)
    assert theirs["eval_rewards/accuracies"] == pytest.approx(expected.metrics["accuracy"])


@pytest.mark.parametrize("micro", [4, 1])
@pytest.mark.parametrize(
    "options",
    [
        {"loss_type": "sigmoid"},
        {"loss_type": "sigmoid_norm"},
        {"loss_type": "hinge"},
        {"loss_type": "ipo"},
        {"loss_type": "robust", "label_smoothing": 0.2},
        {"loss_type": "exo_pair", "label_smoothing": 0.01},
        {"loss_type": "nca_pair"},
        {"loss_type": "sppo_hard"},
        {"loss_type": "apo_zero"},
        {"loss_type": "apo_down"},
        {"loss_type": "sigmoid", "rpo_alpha": 0.7},
        {"loss_type": "ipo", "rpo_alpha": 0.7},
    ],
    ids=lambda options: "-".join(map(str, options.values())),
)
def test_loss_and_gradients_equal_trls(peer, options, micro):
    """TRL on all pairs at once; here also in micro batches, which change nothing: answers differ in length."""
    trainer, alpha = peer.trainer, options.get("rpo_alpha")
    trainer.loss_types, trainer.loss_weights = [options["loss_type"], "sft"][: 2 if alpha else 1], [1.0, alpha]
    trainer.loss_weights = trainer.loss_weights[: len(trainer.loss_types)]
    trainer.label_smoothing = options.get("label_smoothing", 0.0)
    peer.theirs.eval().zero_grad()
    expected = trainer.compute_loss(peer.theirs, dict(trainer.data_collator(list(trainer.train_dataset))))
    expected.backward()
    found = learned(Dpo(beta=0.3, **options), peer.policy, micros(peer.pairs, micro=micro), peer.reference)
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert found.metrics["loss"] == pytest.approx(found.loss, rel=1e-6)
    assert_gradients(found.gradients, peer.theirs)


@pytest.mark.parametrize("adapter", [None, {"rank": 4, "dropout": 0.5}])
def test_neither_policy_nor_reference_drops_anything_out(tmp_path, adapter):
    """Nothing moves, so the loss is ln 2 in every step, also behind a measurement of held-out rows."""
    from raylm.parallel.strategies.ddp import Ddp
    from tests.parallel.loops import SHAPE, TOKENS, make_loop

    table = {"objective": Dpo(), "kind": "Pairs", "lr": 1e-12, "evaluate_every": 1, "steps": 2}
    # the reference of these loops is the shape's model of the next seed
    policy = Train(stage="train", rows="r", model=SHAPE, batch=1, steps=1).model.build(TOKENS, 1)
    for layer in policy.model.layers:
        layer.self_attn.attention_dropout = 0.5
    loop, seen = make_loop(Ddp(), tmp_path, model=policy, **table, **({"adapter": adapter} if adapter else {}))
    found = loop.run()
    assert [row["loss"] for row in seen] == pytest.approx([math.log(2)] * 2, abs=1e-6)
    assert seen[0]["accuracy"] == 0.5 and found["held_out_accuracy_before"] == 0.5
