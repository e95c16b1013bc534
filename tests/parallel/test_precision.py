"""Float8 linear layers: close to bfloat16, forward and backward, and a model learns with them."""

from __future__ import annotations

import pytest
import torch

from raylm.core.errors import ConfigError
from raylm.parallel.blocks import blocks
from raylm.parallel.precision import Float8Linear, check_float8, narrow_products, product
from tests.model.tiny import tiny_model


def far(found, expected):
    found, expected = found.detach(), expected.detach()
    return float((found.float() - expected.float()).norm() / expected.float().norm())


def test_what_float8_can_write_is_exact():
    """Small integers times a power of two are numbers of e4m3; so are they when divided by the scale 448 / 448."""
    left, right = torch.zeros(16, 32), torch.zeros(32, 16)
    left[0, 0], left[0, 1], left[1, 0] = 448.0, 3.0, -7.0
    right[0, 0], right[1, 0], right[1, 1] = 448.0, 5.0, 6.0
    found = product(left.bfloat16(), right.bfloat16())
    torch.testing.assert_close(found, (left @ right).bfloat16(), rtol=1e-2, atol=0)


@pytest.mark.parametrize("tokens", [64, 37])
def test_output_and_gradients_are_near_those_of_bfloat16(tokens):
    """Rounding to 3 bits of mantissa is off by 2 to 4 % in norm; gradients, of 2 bits, by 4 to 7 %."""
    torch.manual_seed(0)
    plain, narrow = torch.nn.Linear(128, 96).bfloat16(), torch.nn.Linear(128, 96).bfloat16()
    narrow.load_state_dict(plain.state_dict())
    assert narrow_products([narrow]) == 1 and type(narrow) is Float8Linear
    inputs = [torch.randn(2, tokens, 128).bfloat16().requires_grad_() for _ in range(1)] * 2
    made = [layer(inputs[0]) for layer in (plain, narrow)]
    slope = torch.randn_like(made[0])
    found = [
        torch.autograd.grad(one, (inputs[0], *layer.parameters()), slope)
        for one, layer in zip(made, (plain, narrow), strict=True)
    ]
    assert 0 < far(made[1], made[0]) < 0.05
    for name, left, right in zip(("input", "weight"), found[1], found[0], strict=False):
        assert 0 < far(left, right) < 0.08, name
    torch.testing.assert_close(found[1][2], found[0][2])


def test_a_model_learns_and_keeps_float32_weights():
    losses = {}
    for how in ("bfloat16", "float8"):
        model = tiny_model(vocab=64, hidden=64, layers=2).train()
        if how == "float8":
            assert narrow_products(blocks(model)) == 2 * 7
        optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
        tokens_BT = torch.randint(0, 64, (4, 33), generator=torch.Generator().manual_seed(1))
        seen = []
        for _ in range(12):
            with torch.autocast("cpu", torch.bfloat16):
                loss = model(input_ids=tokens_BT, labels=tokens_BT).loss
            loss.backward()
            optimizer.step()
            optimizer.zero_grad()
            seen.append(float(loss))
        assert {p.dtype for p in model.parameters()} == {torch.float32} and seen[-1] < seen[0] / 2
        losses[how] = seen
    assert losses["float8"] == pytest.approx(losses["bfloat16"], rel=0.1) and losses["float8"] != losses["bfloat16"]


def test_layers_of_sizes_that_kernels_do_not_take_stay():
    layer = torch.nn.Linear(30, 32)
    assert narrow_products([layer]) == 0 and type(layer) is torch.nn.Linear


def test_a_cpu_is_refused():
    with pytest.raises(ConfigError, match="on cpu float8 is slower"):
        check_float8("cpu")
