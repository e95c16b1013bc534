"""The `qad` method: the gradient of a rounded weight, and a distillation that ends nearer to the original than GPTQ."""

from __future__ import annotations

import torch

from raylm.compress.calibration import Calibration
from raylm.compress.methods.distillation import Divergence, FakeRound, head_inputs
from raylm.compress.methods.gptq import Gptq
from raylm.compress.methods.qad import Qad
from tests.compress.small import rounded
from tests.model.tiny import tiny_model


def test_the_gradient_goes_straight_through_the_rounding_and_exactly_to_the_scale():
    latent = torch.tensor([[1.4, -2.6, 9.0, 0.2]], requires_grad=True)
    scale = torch.tensor([[0.5, 2.0]], requires_grad=True)
    weight = FakeRound.apply(latent, scale, -8, 7)
    assert weight.tolist() == [[0.5, -1.5, 14.0, 0.0]]
    (weight * torch.tensor([1.0, 10.0, 100.0, 1000.0])).sum().backward()
    # beyond the grid nothing moves a latent; a scale's gradient is the sum of its integers
    assert latent.grad.tolist() == [[0.5, 5.0, 0.0, 2000.0]]
    assert scale.grad.tolist() == [[1.0 - 30.0, 700.0]]


def test_the_divergence_and_its_gradient_are_torchs():
    torch.manual_seed(0)
    given, wanted = torch.randn(2, 5, 7, requires_grad=True), torch.randn(2, 5, 7)
    loss = torch.nn.functional.kl_div(given.log_softmax(-1), wanted.log_softmax(-1), reduction="sum", log_target=True)
    (expected,) = torch.autograd.grad(loss, given)
    found = Divergence.apply(given, wanted)
    (found / 2).backward()
    torch.testing.assert_close(found, loss)
    torch.testing.assert_close(given.grad * 2, expected)


def test_head_inputs_give_the_models_own_logits_row_by_row():
    model = tiny_model(vocab=300, layers=1).eval()
    rows = [torch.arange(5, 5 + length) for length in (20, 9, 20)]
    calibration = Calibration(rows)
    found = head_inputs(model, calibration)
    flat = [row for batch in calibration.batches() for row in batch]
    assert [len(each) for each in found] == [len(row) for row in flat] == [9, 20, 20]
    with torch.no_grad():
        for hidden, row in zip(found, flat, strict=True):
            torch.testing.assert_close(model.lm_head(hidden), model(input_ids=row[None]).logits[0], rtol=1e-4, atol=1e-5)


def test_it_ends_nearer_to_the_original_than_gptq(tmp_path):
    first, found = (
        rounded(card, tmp_path / card.kind) for card in (Gptq(group_size=32), Qad(group_size=32, steps=12, batch_tokens=192))
    )
    assert found.divergence() < 0.8 * first.divergence()
    assert found.stored.keys() == first.stored.keys()
    # embedding and head are the original's
    name = "model.embed_tokens.weight"
    assert found.stored[name].equal(found.original[name].bfloat16())
