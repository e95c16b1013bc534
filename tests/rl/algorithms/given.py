"""Six completions of three prompts with given log-probabilities, the losses of cards on them, and TRL's."""

from __future__ import annotations

from collections import defaultdict
from types import SimpleNamespace
from typing import Any

import torch

from raylm.rl.types import Experience, LossInputs, Sample

LENGTHS = (3, 5, 2, 4, 1, 3)
REWARDS = (1.0, 0.0, 0.25, 1.0, -0.5, 0.5)
ROWS = (0, 0, 1, 1, 2, 2)
T = max(LENGTHS)


def fixed(start: float, step: float, low: float = -2.0) -> list[list[float]]:
    """Numbers that look like log-probabilities: a spread over [low, 0) that repeats nowhere in these few."""
    made, at = [], start
    for length in LENGTHS:
        made.append([low * ((at + step * place) % 1.0) - 0.01 for place in range(length)])
        at += 0.37
    return made


GENERATOR = fixed(0.1, 0.23)
TRAINER = [[a + 0.3 * (b + 1.0) for a, b in zip(x, y, strict=True)] for x, y in zip(GENERATOR, fixed(0.6, 0.41), strict=True)]
REFERENCE = [[a + 0.5 * (b + 1.0) for a, b in zip(x, y, strict=True)] for x, y in zip(GENERATOR, fixed(0.3, 0.57), strict=True)]
POLICY = [[a + 0.4 * (b + 1.0) for a, b in zip(x, y, strict=True)] for x, y in zip(TRAINER, fixed(0.8, 0.29), strict=True)]
VALUES = fixed(0.5, 0.31, low=1.0)


def given(**changes: Any) -> Experience:
    """The experience of an iteration that asked three prompts."""
    samples = [
        Sample(
            row,
            [7, 8, *range(9, 9 + length)],
            2,
            GENERATOR[index],
            REWARDS[index],
            trainer_logprobs=TRAINER[index],
            reference_logprobs=REFERENCE[index],
            values=VALUES[index],
        )._replace(**changes)
        for index, (row, length) in enumerate(zip(ROWS, LENGTHS, strict=True))
    ]
    return Experience(samples, [0, 1, 2], 0)


def padded(rows: list[Any]) -> torch.Tensor:
    """One row per completion, 0 behind its end."""
    return torch.stack([torch.nn.functional.pad(torch.tensor(list(row)), (0, T - len(row))).float() for row in rows])


MASK = padded([[1.0] * length for length in LENGTHS])


def flat(rows: Any) -> list[float]:
    """All numbers in their order."""
    return [float(value) for row in rows for value in row]


def samples_of(card: Any, samples: list[Sample] | None = None) -> list[Any]:
    """What is learned from `samples`, or from the given ones."""
    experience = given() if samples is None else given()._replace(samples=samples)
    return card.advantages(experience).samples


def advantages(card: Any, samples: list[Sample] | None = None) -> list[list[float]]:
    """Of each token of each completion that is learned from."""
    return [[float(value) for value in sample.advantages] for sample in samples_of(card, samples)]


def alike(rows: list[list[float]]) -> list[float]:
    """One number of each row, whose numbers are all the same."""
    assert all(value == row[0] for row in rows for value in row)
    return [row[0] for row in rows]


def inputs_of(card: Any, samples: list[Sample], policy: Any = None) -> LossInputs:
    """What the trainer hands to the loss of `samples`, one completion a row; prompts are left out."""
    rows = [GENERATOR.index(sample.logprobs) for sample in samples]
    policy_BT = padded([(policy or POLICY)[row] for row in rows]).requires_grad_()
    old = "trainer_logprobs" if "trainer_logprobs" in card.needs else "logprobs"
    mask_BT = padded([[sample.weight * each for each in sample.mask_or_ones] for sample in samples])
    return LossInputs(
        policy_BT * (mask_BT > 0),
        padded([getattr(sample, old) for sample in samples]) * (mask_BT > 0),
        padded([sample.reference_logprobs for sample in samples]) * (mask_BT > 0),
        padded([sample.advantages for sample in samples]),
        mask_BT,
        generator_BT=padded([sample.logprobs for sample in samples]) * (mask_BT > 0),
    )


def learned(card: Any, policy: Any = None) -> tuple[float, torch.Tensor]:
    """Loss of one optimizer step over the given completions, and its gradient by the policy's log-probabilities, [6, T]."""
    samples = samples_of(card)
    policy_BT = padded(policy or POLICY).requires_grad_()
    rows = [GENERATOR.index(sample.logprobs) for sample in samples]
    inputs = inputs_of(card, samples, policy)
    loss = card.loss(inputs._replace(logprob_BT=policy_BT[rows] * (inputs.mask_BT > 0))).total / card.divisor(samples)
    loss.backward()
    return loss.item(), policy_BT.grad


def trls(
    trainer_class: type, advantages: list[float], config: dict[str, Any], beta: float = 0.0, **batch: torch.Tensor
) -> tuple[float, torch.Tensor]:
    """TRL's loss of the same completions, and its gradient: its trainer's own method, given log-probabilities in place of a
    model's.

    Args:
        config: attributes of its trainer.
        beta: coefficient of the KL.
        batch: what its loss finds beside these, e.g. old_per_token_logps.
    """
    from accelerate import Accelerator

    policy_BT = padded(POLICY).requires_grad_()

    class Given(trainer_class):
        def __init__(self) -> None:
            pass

        def _get_per_token_logps_and_entropies(self, *_: Any, **__: Any) -> tuple[Any, Any, Any]:
            return policy_BT * MASK, torch.zeros_like(policy_BT), None

    trainer: Any = Given()
    usual = {
        "accelerator": Accelerator(cpu=True),
        "model": SimpleNamespace(training=True),
        "aux_loss_enabled": False,
        "top_entropy_quantile": 1.0,
        "off_policy_mask_threshold": None,
        "importance_sampling_level": "token",
        "use_vllm": False,
        "vllm_importance_sampling_correction": True,
        "_entropy_bonus_enabled": False,
        "current_gradient_accumulation_steps": 1,
        "epsilon_low": 0.2,
        "epsilon_high": 0.28,
        "beta": beta,
        "args": SimpleNamespace(delta=None, use_bias_correction_kl=False, steps_per_generation=1),
        "_metrics": {"train": defaultdict(list)},
    }
    for name, value in (usual | config).items():
        setattr(trainer, name, value)
    ids = torch.zeros(6, T, dtype=torch.long)
    inputs = {
        "prompt_ids": ids,
        "prompt_mask": ids,
        "completion_ids": ids,
        "completion_mask": MASK,
        "advantages": torch.tensor(advantages),
        "old_per_token_logps": padded(GENERATOR),
        "ref_per_token_logps": padded(REFERENCE),
        "num_items_in_batch": MASK.sum(),
    }
    loss = trainer._compute_loss(None, inputs | batch)
    loss.backward()
    return loss.item(), policy_BT.grad
