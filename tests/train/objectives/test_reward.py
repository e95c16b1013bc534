"""The `reward` objective: by hand, loss and gradients against TRL's trainer, and a planted preference."""

from __future__ import annotations

import copy
import math

import numpy as np
import pytest
import torch

from raylm.model.attention import install
from raylm.model.value_head import with_value_head
from raylm.train.batches import Batches
from raylm.train.objectives.reward import Reward
from tests.model.tiny import tiny_model
from tests.parallel.loops import fixed_rows
from tests.train.objectives.preferences import TEXTS, Peer, arguments, assert_gradients, learned, micros, planted, tokenizer

PAIRS = [
    {"prompt": np.array([1, 40]), "chosen": np.array([50, 2]), "rejected": np.array([2])},
    {"prompt": np.array([1]), "chosen": np.array([52, 2]), "rejected": np.array([61, 62, 63, 2])},
]


def reward_model(vocab: int = 70, seed: int = 0):
    model = with_value_head(tiny_model(vocab=vocab, hidden=32, layers=1, seed=seed), 3)
    model.score.weight.data.mul_(20)
    return model


def test_loss_by_hand():
    """All answers end alike and the model looks at nothing else: rewards are equal, and margins are all that is lost."""
    model = reward_model()
    for layer in model.model.layers:
        layer.self_attn.o_proj.weight.data.zero_()
    found = learned(Reward(), model, micros(PAIRS))
    assert found.loss == pytest.approx(math.log(2), rel=1e-5) and found.metrics["accuracy"] == 0.5
    rows = [{**row, "margin": margin} for row, margin in zip(PAIRS, (0.5, 2.0), strict=True)]
    expected = (math.log1p(math.exp(0.5)) + math.log1p(math.exp(2.0))) / 2
    assert learned(Reward(), model, micros(rows)).loss == pytest.approx(expected, rel=1e-5)
    centred = learned(Reward(center_rewards_coefficient=0.25), model, micros(PAIRS))
    reward = found.metrics["chosen_reward"]
    assert reward != 0 and centred.loss == pytest.approx(math.log(2) + 0.25 * (2 * reward) ** 2, rel=1e-5)


@pytest.fixture(scope="module")
def peer(tmp_path_factory):
    from datasets import Dataset
    from transformers.models.llama.modeling_llama import LlamaForSequenceClassification
    from trl import RewardConfig, RewardTrainer

    policy = reward_model(300).eval()
    theirs = LlamaForSequenceClassification(copy.deepcopy(policy.config))
    theirs.load_state_dict(policy.state_dict())
    args = arguments(RewardConfig, tmp_path_factory.mktemp("reward"), center_rewards_coefficient=0.05)
    rows = [{**row, "margin": 0.25 * at} for at, row in enumerate(TEXTS)]
    trainer = RewardTrainer(model=theirs, args=args, train_dataset=Dataset.from_list(rows), processing_class=tokenizer())
    return Peer(trainer, theirs, policy)


@pytest.mark.parametrize("margin", [False, True])
@pytest.mark.parametrize("micro", [4, 1])
def test_loss_and_gradients_equal_trls(peer, micro, margin):
    rows = [dict(row) for row in peer.trainer.train_dataset]
    given = dict(peer.trainer.data_collator(rows))
    if not margin:
        del given["margin"]
    peer.theirs.eval().zero_grad()
    peer.trainer._metrics["eval"].clear()
    expected = peer.trainer.compute_loss(peer.theirs, given)
    expected.backward()
    pairs = [
        {
            "prompt": np.array(row["chosen_ids"][:1]),
            "chosen": np.array(row["chosen_ids"][1:]),
            "rejected": np.array(row["rejected_ids"][1:]),
        }
        | ({"margin": row["margin"]} if margin else {})
        for row in rows
    ]
    found = learned(Reward(center_rewards_coefficient=0.05), peer.policy, micros(pairs, micro=micro))
    assert found.loss == pytest.approx(float(expected.detach()), rel=1e-5)
    assert_gradients(found.gradients, peer.theirs)
    metrics = {name: values[-1] for name, values in peer.trainer._metrics["eval"].items()}
    assert found.metrics["margin"] == pytest.approx(metrics["margin"], rel=1e-4)
    assert found.metrics["accuracy"] == metrics["accuracy"]
    assert (found.metrics["chosen_reward"] + found.metrics["rejected_reward"]) / 2 == pytest.approx(
        metrics["mean_reward"], rel=1e-4
    )


def test_rewards_of_pairs_laid_without_padding_are_the_same():
    """A pair's prompt stands once, and both answers behind it have their value at their own last token."""
    model = reward_model(64).eval()
    install(model)
    rows = [{**row, "margin": 0.1 * at} for at, row in enumerate(fixed_rows()[:6])]
    found = []
    for free in (False, True):
        options = {"batch": 6, "micro": 4, "seed": 0, "pad_id": 0, "rank": 0, "world": 1, "padding_free": free}
        batches = Batches(rows, "Pairs", **options).split(list(range(6)))
        found.append(learned(Reward(center_rewards_coefficient=0.1), model, batches))
    padded, laid = found
    assert laid.loss == pytest.approx(padded.loss, rel=1e-5) and laid.metrics == pytest.approx(padded.metrics, rel=1e-4)
    for name, tensor in padded.gradients.items():
        torch.testing.assert_close(laid.gradients[name], tensor, atol=1e-4, rtol=1e-4)


def test_a_planted_preference_is_learned():
    model, card = reward_model(64), Reward()
    train, held_out = planted("Pairs")
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    for at in range(60):
        learned(card, model, [train[at % len(train)]])
        optimizer.step()
    assert learned(card, model, held_out).metrics["accuracy"] >= 0.95
