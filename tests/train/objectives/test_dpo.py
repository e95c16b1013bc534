"""The `dpo` objective: the loss by hand and against TRL's trainer on the same model, reference and pairs."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from raylm.data.kinds.pairs import Pairs
from raylm.model.scores import Scores, ask
from raylm.train.batches import Batches
from raylm.train.config import Train
from raylm.train.objectives.dpo import Dpo
from tests.model.tiny import tiny_model, tiny_tokenizer

PAIRS = [
    {"prompt": np.array([1, 40, 41]), "chosen": np.array([50, 51, 2]), "rejected": np.array([60, 2])},
    {"prompt": np.array([1, 42]), "chosen": np.array([52, 2]), "rejected": np.array([61, 62, 63, 2])},
]


def batch(pairs=PAIRS):
    (micro,) = Batches(pairs, "Pairs", batch=2, micro=8, seed=0, pad_id=0, rank=0, world=1).split([0, 1])
    return micro


def scored(model, micro):
    with torch.no_grad():
        return ask(model, Dpo().inputs(micro, 0))


def loss(card, model, micro, reference):
    return card.loss(scored(model, micro), card.inputs(micro, 0), micro, reference)


def as_scores(micro, sum_R):
    """A reference whose answers have these log-probabilities in all."""
    weight_BT = Dpo().inputs(micro, 0).weight_BT
    each_BT = weight_BT * (sum_R / weight_BT.sum(1).clamp(min=1))[:, None]
    return Scores(each_BT, torch.zeros_like(each_BT))


def test_a_policy_that_equals_its_reference_loses_log_two():
    model = tiny_model(vocab=70, hidden=32, layers=1)
    found = loss(Dpo(), model, batch(), scored(model, batch()))
    assert float(found.total) == pytest.approx(2 * math.log(2))
    assert float(found.metrics["margin"]) == 0.0
    assert float(found.metrics["accuracy"]) == 1.0  # two ties, each half


def test_loss_and_metrics_by_hand():
    """A uniform policy over 70 tokens, and a reference that is given."""
    model = tiny_model(vocab=70, hidden=32, layers=1)
    model.lm_head.weight.data.zero_()
    reference = torch.tensor([-14.0, -7.0, -9.0, -16.0])
    found = loss(Dpo(beta=0.5), model, batch(), as_scores(batch(), reference))
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
    sum_R = (scored(model, whole).logprob_BT * Dpo().inputs(whole, 0).weight_BT).sum(1)
    reference = as_scores(whole, sum_R - torch.tensor([1.0, 2.0, 3.0, 4.0]))
    found = loss(Dpo(), model, filled, reference)
    assert float(found.total) == pytest.approx(math.log1p(math.exp(-0.1 * (1 - 3))), rel=1e-4)


@pytest.mark.slow
def test_loss_and_rewards_equal_trls(tmp_path):
    """One evaluation by TRL's own DPOTrainer: TRL has no function that takes log-probabilities."""
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    policy, reference = (tiny_model(vocab=300, hidden=32, layers=1, seed=seed) for seed in (0, 1))
    args = DPOConfig(
        output_dir=str(tmp_path),
        beta=0.3,
        per_device_eval_batch_size=2,
        use_cpu=True,
        bf16=False,
        report_to=[],
        gradient_checkpointing=False,
    )
    data = Dataset.from_list(
        [
            {"prompt": "a module", "chosen": " imports", "rejected": " no"},
            {"prompt": "the class", "chosen": " is", "rejected": " raises an error"},
        ]
    )
    trainer = DPOTrainer(
        model=policy, ref_model=reference, args=args, train_dataset=data, eval_dataset=data, processing_class=tiny_tokenizer(300)
    )
    pairs = [{side: np.array(row[f"{side}_ids"]) for side in ("prompt", "chosen", "rejected")} for row in trainer.eval_dataset]
    made = batch(pairs)
    expected = loss(Dpo(beta=0.3), policy.eval(), made, scored(reference, made))
    theirs = trainer.evaluate()
    assert theirs["eval_loss"] == pytest.approx(float(expected.total) / 2, abs=1e-5)
    assert theirs["eval_rewards/margins"] == pytest.approx(float(expected.metrics["margin"]) / 2, abs=1e-4)
    assert theirs["eval_rewards/chosen"] == pytest.approx(float(expected.metrics["chosen_reward"]) / 2, abs=1e-4)
    assert theirs["eval_rewards/accuracies"] == pytest.approx(float(expected.metrics["accuracy"]) / 2)


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
