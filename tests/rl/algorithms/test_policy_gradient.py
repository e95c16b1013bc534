"""What policy-gradient cards share: aggregation by hand, entropy, keys by other frameworks' names."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from pydantic import TypeAdapter, ValidationError

from raylm.rl.algorithms import AnyAlgorithm
from raylm.rl.algorithms.grpo import Grpo
from raylm.rl.algorithms.ppo import Ppo
from raylm.rl.algorithms.rloo import Rloo
from raylm.rl.types import LossInputs
from tests.rl.algorithms.given import LENGTHS, ROWS, given, inputs_of, learned, samples_of, trls


@pytest.mark.parametrize(
    ("aggregation", "length", "divisor"),
    [("token", None, 18.0), ("sequence", None, 6.0), ("group", None, 3.0), ("constant", 9, 6.0)],
)
def test_weights_and_divisors_by_hand(aggregation, length, divisor):
    card = Grpo(aggregation=aggregation, constant_length=length)
    samples = samples_of(card)
    of_group = {row: sum(n for n, other in zip(LENGTHS, ROWS, strict=True) if other == row) for row in set(ROWS)}
    expected = {
        "token": [1.0] * 6,
        "sequence": [1 / n for n in LENGTHS],
        "group": [1 / of_group[row] for row in ROWS],
        "constant": [1 / 9] * 6,
    }
    assert [one.weight for one in samples] == pytest.approx(expected[aggregation])
    assert card.divisor(samples) == pytest.approx(divisor)


@pytest.mark.parametrize(
    ("card", "config"),
    [
        (Grpo(), {"loss_type": "dapo"}),
        (Grpo(), {"loss_type": "bnpo"}),
        (Grpo(aggregation="sequence"), {"loss_type": "grpo"}),
        (
            Grpo(aggregation="constant", constant_length=7, scale_rewards="none"),
            {"loss_type": "dr_grpo", "max_completion_length": 7},
        ),
        (Grpo(clip=0.05, clip_high=0.01), {"loss_type": "dapo", "epsilon_low": 0.05, "epsilon_high": 0.01}),
    ],
)
def test_losses_are_trls(card, config):
    """grpo_trainer.py of TRL 1.16, loss and gradient of the same log-probabilities."""
    from trl.trainer.grpo_trainer import GRPOTrainer

    values = [one.advantages[0] for one in samples_of(card)]
    expected, gradient = trls(GRPOTrainer, values, config)
    found, ours = learned(card)
    assert found == pytest.approx(expected, rel=1e-5)
    torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-7)


def test_a_bound_on_negative_advantages_is_trls_delta():
    from trl.trainer.grpo_trainer import GRPOTrainer

    card = Grpo(dual_clip=1.3)
    values = [one.advantages[0] for one in samples_of(card)]
    args = SimpleNamespace(delta=1.3, use_bias_correction_kl=False, steps_per_generation=1)
    expected, gradient = trls(GRPOTrainer, values, {"loss_type": "dapo", "args": args})
    found, ours = learned(card)
    assert found == pytest.approx(expected, rel=1e-5) and found != pytest.approx(learned(Grpo())[0], rel=1e-5)
    torch.testing.assert_close(ours, gradient, rtol=1e-5, atol=1e-7)


@pytest.mark.parametrize(
    ("aggregation", "length", "expected"),
    [("token", None, -0.022448663), ("sequence", None, 0.089606792), ("constant", 5, -0.013469212)],
)
def test_losses_are_verls(aggregation, length, expected):
    """verl 0.9.1, compute_policy_loss_vanilla with RLOO's advantages, clip_ratio_low 0.2, clip_ratio_high 0.28, clip_ratio_c 1.4:
    "token-mean", "seq-mean-token-mean" and "seq-mean-token-sum-norm" over 5 tokens."""
    card = Grpo(dual_clip=1.4, aggregation=aggregation, constant_length=length)
    weights = [one.weight for one in samples_of(card)]
    samples = [one._replace(weight=weight) for one, weight in zip(samples_of(Rloo()), weights, strict=True)]
    found = card.loss(inputs_of(card, samples)).total.item() / card.divisor(samples)
    assert found == pytest.approx(expected, rel=1e-5)


def test_what_is_rejected_or_the_environments_has_no_weight():
    samples = [one._replace(mask=[1.0] + [0.0] * (len(one.logprobs) - 1)) for one in given().samples]
    card = Grpo(aggregation="sequence")
    found = samples_of(card, samples)
    assert [one.weight for one in found] == [1.0] * 6 and card.divisor(found) == 6.0
    nothing = [samples[0]._replace(mask=[0.0] * 3), *samples[1:]]
    assert len(samples_of(card, nothing)) == 5


def test_the_entropy_bonus_by_hand():
    """Entropies of 0.5 and 1.5, a coefficient of 0.1, and a weight of 0.5 each."""
    zeros, mask = torch.zeros(1, 2), torch.full((1, 2), 0.5)
    entropy = torch.tensor([[0.5, 1.5]], requires_grad=True)
    inputs = LossInputs(zeros, zeros, None, zeros, mask, entropy_BT=entropy)
    found = Grpo(entropy=0.1).loss(inputs)
    assert found.total.item() == pytest.approx(-0.1) and found.metrics["entropy"].item() == pytest.approx(1.0)
    found.total.backward()
    assert entropy.grad is not None and entropy.grad[0].tolist() == pytest.approx([-0.05, -0.05])
    quiet = Grpo().loss(inputs)
    assert quiet.total.item() == 0.0 and quiet.metrics["entropy"].item() == pytest.approx(1.0)
    assert Grpo(entropy=0.1).needs == ("entropy",) and Grpo().needs == ()


def test_the_mismatch_is_measured_against_the_generator_by_hand():
    samples = samples_of(Grpo())
    metrics = Grpo().loss(inputs_of(Grpo(), samples)).metrics
    gap = inputs_of(Grpo(), samples).logprob_BT.detach() - inputs_of(Grpo(), samples).old_BT
    assert metrics["mismatch_ratio"].item() == pytest.approx(float(gap.exp()[gap != 0].sum()), rel=1e-5)
    assert metrics["mismatch_logprob"].item() == pytest.approx(float(gap.abs().sum()), rel=1e-5)
    assert metrics["mismatch_kl"].item() == pytest.approx(float((gap.exp() - 1 - gap).sum()), rel=1e-4)
    # with the trainer's log-probabilities of before the update it is not the update that is measured
    assert "mismatch_kl" not in Ppo().loss(inputs_of(Ppo(), samples_of(Ppo()))).metrics


def test_keys_of_other_frameworks_are_refused_with_ours():
    read = TypeAdapter(AnyAlgorithm).validate_python
    with pytest.raises(ValidationError, match=r"Here it is kl = \{coefficient"):
        read({"kind": "rloo", "beta": 0.1})
    with pytest.raises(ValidationError, match="Here it is clip_high"):
        read({"kind": "grpo", "epsilon_high": 0.28})
    with pytest.raises(ValidationError, match="go together"):
        read({"kind": "gspo", "aggregation": "constant"})


def test_every_algorithm_reads_its_own_words():
    read: Any = TypeAdapter(AnyAlgorithm).validate_python
    for kind in ("grpo", "rloo", "reinforce_plus_plus", "reinforce_plus_plus_baseline", "gspo", "cispo", "ppo"):
        card = read({"kind": kind, "kl": {"coefficient": 0.1}, "correction": {"mode": "token_mask", "low": 0.5, "high": 5.0}})
        assert card.kind == kind and {"reference", "trainer_logprobs"} <= set(card.needs)
        assert read(card.model_dump()) == card and len(card.fingerprint()) == 16
