"""Rollout correction: weights, masks and rejections against verl's and by hand, their place in the loss, what is reported."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from raylm.core.errors import StageError
from raylm.rl.algorithms.correction import Correction, mismatch
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.algorithms.ppo import Ppo
from tests.rl.algorithms.given import MASK, flat, given, learned, padded, samples_of, trls
from tests.rl.samples import config

# verl 0.9.1, compute_rollout_correction_weights of given.TRAINER against given.GENERATOR, thresholds "1.1" and "0.9_1.2"
TOKEN_TIS = [
    [0.93894, 1.1, 1.04603],
    [0.75201, 1.07144, 0.83778, 1.1, 0.93333],
    [1.09746, 0.85813],
    [0.87897, 1.1, 0.97922, 0.76567],
    [1.1],
    [1.02737, 0.80332, 1.1],
]
TOKEN_ICEPOP = [
    [0.93894, 0.0, 1.04603],
    [0.0, 1.07144, 0.0, 1.19363, 0.93333],
    [1.09746, 0.0],
    [0.0, 0.0, 0.97922, 0.0],
    [0.0],
    [1.02737, 0.0, 1.14454],
]
SEQUENCE_TIS = [1.1, 0.75201, 0.94176, 0.82531, 1.1, 0.94459]
SEQUENCE_MASK = [0.0, 0.0, 0.94176, 0.0, 0.0, 0.94459]


def ones():
    return [one._replace(advantages=[1.0] * len(one.logprobs)) for one in given().samples]


@pytest.mark.parametrize(
    ("card", "expected", "outside"),
    [
        (Correction(high=1.1), TOKEN_TIS, "correction_truncated"),
        (Correction(mode="token_mask", low=0.9, high=1.2), TOKEN_ICEPOP, "correction_masked"),
        (Correction(mode="sequence_truncate", high=1.1), SEQUENCE_TIS, "correction_truncated"),
        (Correction(mode="sequence_mask", low=0.9, high=1.2), SEQUENCE_MASK, "correction_masked"),
    ],
)
def test_weights_are_verls(card, expected, outside):
    found, metrics = card.weigh(ones())
    lengths = [len(sample.logprobs) for sample in found]
    rows = [row if isinstance(row, list) else [row] * length for row, length in zip(expected, lengths, strict=True)]
    assert flat(sample.advantages.tolist() for sample in found) == pytest.approx(flat(rows), abs=1e-5)
    assert metrics["correction_weight"] == pytest.approx(sum(flat(rows)) / 18, abs=1e-5)
    kept = 0.0 if card.mode.endswith("mask") else 1.1
    assert metrics[outside] == pytest.approx(sum(value == kept for value in flat(rows)) / 18)


@pytest.mark.parametrize(
    ("level", "low", "high", "expected"),
    [
        # verl's token_k1, seq_sum_k1 and seq_mean_k1 bound generator / trainer: "0.85_1.15", "0.85_1.2", "0.95_1.06"
        ("token", 0.85, 1.15, [[1, 0, 1], [0, 1, 0, 0, 1], [1, 0], [1, 0, 1, 0], [0], [1, 0, 1]]),
        ("sequence", 0.85, 1.2, [[0] * 3, [0] * 5, [1] * 2, [0] * 4, [0], [1] * 3]),
        ("geometric", 0.95, 1.06, [[0] * 3, [1] * 5, [1] * 2, [1] * 4, [0], [1] * 3]),
    ],
)
def test_rejections_are_verls(level, low, high, expected):
    card = Correction(mode="off", reject=level, reject_low=1 / high, reject_high=1 / low)
    found, metrics = card.weigh(ones())
    assert [list(map(int, sample.mask)) for sample in found] == expected
    assert metrics == {"correction_rejected": pytest.approx(flat(expected).count(0) / 18)}
    assert all(sample.advantages == [1.0] * len(sample.logprobs) for sample in found)


def test_what_is_rejected_counts_in_no_mean():
    card = Grpo(correction=Correction(mode="off", reject="sequence", reject_low=1 / 1.2, reject_high=1 / 0.85))
    found = samples_of(card)
    assert [len(sample.logprobs) for sample in found] == [2, 3] and card.divisor(found) == 5
    gradient = learned(card)[1]
    assert set(gradient.nonzero()[:, 0].tolist()) <= {2, 5} and gradient.abs().sum() > 0


def test_a_token_of_an_environment_has_no_ratio():
    """Its log-probability of 0 is nobody's: by hand, the second of two drawn tokens, and all of them, 2 to 1."""
    sample = (
        given()
        .samples[0]
        ._replace(
            logprobs=[-1.0, 0.0, -1.0], trainer_logprobs=[-1.0, -9.0, -1.0 + math.log(2)], mask=[1, 0, 1], advantages=[1.0] * 3
        )
    )
    (found,), metrics = Correction(mode="sequence_truncate", high=8.0).weigh([sample])
    assert found.advantages.tolist() == pytest.approx([2.0] * 3) and metrics["correction_weight"] == pytest.approx(2.0)
    (found,), _ = Correction(mode="off", reject="geometric", reject_high=1.5).weigh([sample])
    assert list(found.mask) == [1, 0, 1]
    assert mismatch([sample])["mismatch_max"] == pytest.approx(math.log(2))


def test_in_the_loss_it_stands_where_trls_does():
    """grpo_trainer.py of TRL 1.16: per-token loss times importance_sampling_ratio, before the KL; old is the trainer's."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    card = Grpo(correction=Correction(high=1.1), kl={"coefficient": 0.2}, aggregation="sequence")
    values = [sample.advantages[0] for sample in samples_of(Grpo())]
    config = {"loss_type": "grpo", "use_vllm": True}
    old = padded([sample.trainer_logprobs for sample in given().samples])
    expected, gradient = trls(
        GRPOTrainer, values, config, beta=0.2, importance_sampling_ratio=padded(TOKEN_TIS), old_per_token_logps=old
    )
    found, ours = learned(card)
    assert found == pytest.approx(expected, abs=1e-5)
    torch.testing.assert_close(ours, gradient, rtol=1e-4, atol=1e-5)


def test_mismatch_is_verls():
    """verl 0.9.1, compute_offpolicy_metrics: k3_kl 0.015148; the mean ratio by hand."""
    found = mismatch(given().samples)
    gap = (padded([s.trainer_logprobs for s in given().samples]) - padded([s.logprobs for s in given().samples]))[MASK > 0]
    assert found["mismatch_kl"] == pytest.approx(0.015148, abs=1e-6)
    assert found["mismatch_ratio"] == pytest.approx(float(gap.exp().mean()), rel=1e-5)
    assert found["mismatch_logprob"] == pytest.approx(float(gap.abs().mean()), rel=1e-5)
    assert found["mismatch_max"] == pytest.approx(float(gap.abs().max()), rel=1e-5)


def test_mismatch_is_measured_before_anything_is_rejected_and_with_the_trainers_word_once():
    card = Grpo(correction=Correction(mode="off", reject="token", reject_high=1.1))
    experience = card.advantages(given())
    assert experience.metrics is not None and experience.metrics["mismatch_kl"] == pytest.approx(0.015148, abs=1e-6)
    assert experience.metrics["correction_rejected"] > 0.3
    assert "trainer_logprobs" in card.needs and "trainer_logprobs" not in Grpo().needs
    with pytest.raises(StageError, match="without the trainer's log-probabilities"):
        card.advantages(given(trainer_logprobs=None))


def test_auto_corrects_where_the_stage_is_asynchronous():
    assert Grpo().in_stage(asynchronous=True).correction == Correction(mode="token_truncate", high=2.0)
    assert Grpo().in_stage(asynchronous=False).correction == "off"
    assert Grpo(correction="off").in_stage(asynchronous=True).correction == "off"
    assert "trainer_logprobs" in Ppo().needs and Grpo().in_stage(True).needs == ("trainer_logprobs",)


def test_a_stage_writes_down_what_it_decided():
    asynchronous = config(async_rollouts={"max_staleness": 2})
    assert asynchronous.algorithm.correction == Correction() and "trainer_logprobs" in asynchronous.algorithm.needs
    for table in ({}, {"async_rollouts": {"max_staleness": 0}}):
        assert config(**table).algorithm.correction == "off" and config(**table).algorithm.needs == ()
    said = config(async_rollouts={}, algorithm={"kind": "grpo", "correction": "off"})
    assert said.algorithm.correction == "off"
    assert type(said).model_validate(asynchronous.model_dump()) == asynchronous


def test_what_cannot_be_is_refused():
    with pytest.raises(ValidationError, match="low = 3 is above high = 2"):
        Correction(low=3.0)
    with pytest.raises(ValidationError, match="corrects nothing"):
        Correction(mode="off")
