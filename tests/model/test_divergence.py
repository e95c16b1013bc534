"""Divergences by hand, against TRL's, and over classes that are put together."""

from __future__ import annotations

import math

import pytest
import torch

from raylm.model.divergence import divergence

TEACHER, STUDENT = [0.5, 0.25, 0.25], [0.25, 0.25, 0.5]


def test_by_hand():
    """Two classes change places: KL is half a nat of log 2 either way; the mixture lies in the middle."""
    teacher, student = (torch.tensor(each).log() for each in (TEACHER, STUDENT))
    half = 0.25 * math.log(2)
    assert float(divergence(student, teacher, "forward")) == pytest.approx(half)
    assert float(divergence(student, teacher, "reverse")) == pytest.approx(half)
    mixed = [0.375, 0.25, 0.375]
    to_mixed = sum(p * math.log(p / m) for p, m in zip(TEACHER, mixed, strict=True))
    assert float(divergence(student, teacher, "jsd", 0.5)) == pytest.approx(to_mixed)
    quarter = [0.25 * p + 0.75 * q for p, q in zip(TEACHER, STUDENT, strict=True)]
    sums = [sum(p * math.log(p / m) for p, m in zip(each, quarter, strict=True)) for each in (TEACHER, STUDENT)]
    assert float(divergence(student, teacher, "jsd", 0.25)) == pytest.approx(0.25 * sums[0] + 0.75 * sums[1])


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_empty_classes_are_passed_over_and_have_no_gradient(kind):
    teacher = torch.tensor([*TEACHER, 0.0]).log()
    student = torch.tensor([*STUDENT, 0.0]).log().requires_grad_()
    found = divergence(student, teacher, kind)
    assert float(found.detach()) == pytest.approx(float(divergence(student[:3], teacher[:3], kind).detach()))
    found.backward()
    assert student.grad.isfinite().all() and student.grad[3] == 0


@pytest.mark.parametrize("kind", ["forward", "reverse", "jsd"])
def test_classes_that_are_put_together_lose_divergence(kind):
    draw = torch.Generator().manual_seed(0)
    teacher, student = (torch.randn(5, 40, generator=draw).mul(2).log_softmax(-1) for _ in range(2))
    order = teacher.argsort(-1, descending=True)
    found = []
    for k in (1, 4, 16, 39):
        together = [
            torch.cat([each.gather(1, order[:, :k]), each.gather(1, order[:, k:]).logsumexp(1, keepdim=True)], 1)
            for each in (student, teacher)
        ]
        found.append(divergence(*together, kind))
    whole = divergence(student, teacher, kind)
    for few, more in zip(found, [*found[1:], whole], strict=True):
        assert (few <= more + 1e-6).all()
    torch.testing.assert_close(found[-1], whole, atol=1e-5, rtol=1e-5)


def test_equal_to_gkds():
    """TRL's function takes logits, and has no factor of temperature."""
    from trl.experimental.gkd.gkd_trainer import GKDTrainer

    draw = torch.Generator().manual_seed(1)
    student, teacher = (torch.randn(2, 3, 50, generator=draw).mul(3) for _ in range(2))
    labels = torch.tensor([[1, -100, 2], [3, 4, -100]])
    for kind, beta in (("forward", 0.0), ("reverse", 1.0), ("jsd", 0.5), ("jsd", 0.1)):
        for temperature in (1.0, 2.5):
            theirs, ours = student.clone().requires_grad_(), student.clone().requires_grad_()
            right = GKDTrainer.generalized_jsd_loss(
                theirs, teacher, labels, beta=beta, temperature=temperature, num_items_in_batch=4
            )
            each = [(logits / temperature).log_softmax(-1) for logits in (ours, teacher)]
            found = divergence(*each, kind, beta or 0.5)[labels != -100].sum() / 4
            torch.testing.assert_close(found, right, atol=1e-6, rtol=1e-5)
            for loss in (found, right):
                loss.backward()
            torch.testing.assert_close(ours.grad, theirs.grad, atol=1e-6, rtol=1e-4)
