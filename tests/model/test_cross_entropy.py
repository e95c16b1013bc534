"""Every method of the cross-entropy: scores and gradients against float64 from torch's own functions."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch.utils._python_dispatch import TorchDispatchMode

from raylm.model import cross_entropy
from raylm.model.cross_entropy import Announced, LossOptions

chunked: Any = cross_entropy.chunked
plain: Any = cross_entropy.plain
N, D, V = 37, 12, 50


@pytest.fixture(autouse=True)
def small_chunks(monkeypatch):
    """Chunks of 10: three whole ones and a rest."""
    monkeypatch.setattr(cross_entropy, "chunk_tokens", lambda vocab, device: 10)


def operands(dtype=torch.float32, bias=True) -> Any:
    draw = torch.Generator().manual_seed(3)
    hidden_ND, weight_VD = torch.randn(N, D, generator=draw), torch.randn(V, D, generator=draw)
    bias_V = torch.randn(V, generator=draw) if bias else None
    target_N, counts_N = torch.randint(0, V, (N,), generator=draw), torch.rand(N, generator=draw)
    leaves = [None if t is None else t.to(dtype).requires_grad_() for t in (hidden_ND, weight_VD, bias_V)]
    return leaves, target_N, counts_N


def reference(leaves, target_N, temperature, loss):
    """Scores and gradients in float64 by torch's log_softmax."""
    wide: Any = [None if t is None else t.detach().double().requires_grad_() for t in leaves]
    logits_NV = torch.nn.functional.linear(*wide) / temperature
    logprob_N = -torch.nn.functional.cross_entropy(logits_NV, target_N, reduction="none")
    lse_N = logits_NV[range(N), target_N] - logprob_N
    loss(logprob_N, lse_N).backward()
    return logprob_N, lse_N, [None if t is None else t.grad for t in wide]


def weighted(counts_N, z_loss, scale=0.7):
    return lambda logprob_N, lse_N: scale * (counts_N * (-logprob_N + z_loss * lse_N.square())).sum()


def of_any_kind(logprob_N, lse_N):
    return torch.nn.functional.logsigmoid(logprob_N[:20].sum() / 9 - lse_N[20:].tanh().sum()) + (logprob_N.exp() * lse_N).sum()


def assert_close(found, expected, tolerance):
    for one, other in zip(found, expected, strict=True):
        assert (one is None) == (other is None)
        if one is not None:
            torch.testing.assert_close(one.double(), other, **tolerance)


@pytest.mark.parametrize("fused", [False, True], ids=["chunked", "fused"])
@pytest.mark.parametrize(
    ("bias", "temperature", "z_loss"), [(False, 1.0, 0.0), (True, 0.7, 0.0), (True, 1.0, 0.1), (True, 1.3, 0.1)]
)
def test_scores_and_gradients_of_an_announced_loss(fused, bias, temperature, z_loss):
    leaves, target_N, counts_N = operands(bias=bias)
    counts_N[4:7] = 0
    loss = weighted(counts_N, z_loss)
    expected = reference(leaves, target_N, temperature, loss)
    found = chunked(*leaves, target_N, LossOptions(temperature, fused), Announced(counts_N, z_loss))
    loss(*found).backward()
    tolerance = {"atol": 2e-5, "rtol": 1e-5}
    assert_close([*found, *(None if t is None else t.grad for t in leaves)], [*expected[:2], *expected[2]], tolerance)


@pytest.mark.parametrize("options", ["plain", LossOptions(0.7, False), LossOptions(0.7, True)], ids=["plain", "chunked", "fused"])
def test_scores_and_gradients_of_any_loss(options):
    leaves, target_N, _ = operands()
    expected = reference(leaves, target_N, 0.7, of_any_kind)
    found = plain(*leaves, target_N, LossOptions(0.7)) if options == "plain" else chunked(*leaves, target_N, options)
    of_any_kind(*found).backward()
    assert_close([*found, *(t.grad for t in leaves)], [*expected[:2], *expected[2]], {"atol": 2e-5, "rtol": 1e-5})


@pytest.mark.parametrize("fused", [False, True], ids=["chunked", "fused"])
@pytest.mark.parametrize("announced", [True, False])
def test_bfloat16_sums_in_float32(fused, announced):
    """Operands are bfloat16 and so are the products; scores and the sum of gradients over chunks are not."""
    leaves, target_N, counts_N = operands(torch.bfloat16)
    loss = weighted(counts_N, 0.0)
    expected = reference(leaves, target_N, 1.0, loss)
    found = chunked(*leaves, target_N, LossOptions(1.0, fused), Announced(counts_N, 0.0) if announced else None)
    loss(*found).backward()
    assert {t.dtype for t in found} == {torch.float32} and {t.grad.dtype for t in leaves} == {torch.bfloat16}
    assert_close([*found, *(t.grad for t in leaves)], [*expected[:2], *expected[2]], {"atol": 4e-2, "rtol": 2e-2})


def test_autocast_computes_in_bfloat16_and_returns_gradients_in_float32():
    leaves, target_N, counts_N = operands()
    with torch.autocast("cpu", torch.bfloat16):
        found = chunked(*leaves, target_N, LossOptions(1.0, False), Announced(counts_N, 0.0))
        loss = weighted(counts_N, 0.0)(*found)
    loss.backward()
    expected = reference(leaves, target_N, 1.0, weighted(counts_N, 0.0))
    assert {t.grad.dtype for t in leaves} == {torch.float32}
    assert float((found[0] - expected[0]).detach().abs().max()) > 1e-4, "not computed in bfloat16"
    assert_close([t.grad for t in leaves], expected[2], {"atol": 4e-2, "rtol": 2e-2})


def test_frozen_operands_get_no_gradient_and_no_memory():
    (hidden_ND, weight_VD, _), target_N, counts_N = operands()
    weight_VD.requires_grad_(False)
    found = chunked(hidden_ND, weight_VD, None, target_N, LossOptions(1.0, False), Announced(counts_N, 0.0))
    assert found[0].grad_fn.sums.weight_VD is None
    weighted(counts_N, 0.0)(*found).backward()
    assert weight_VD.grad is None and hidden_ND.grad is not None
    with torch.no_grad():
        quiet = chunked(hidden_ND, weight_VD, None, target_N, LossOptions(1.0, False), Announced(counts_N, 0.0))
    assert quiet[0].grad_fn is None
    torch.testing.assert_close(quiet, tuple(t.detach() for t in found))


def test_another_loss_than_the_announced_is_refused():
    leaves, target_N, counts_N = operands()
    found = chunked(*leaves, target_N, LossOptions(1.0, False), Announced(counts_N, 0.0))
    with pytest.raises(RuntimeError, match="its objective announced"):
        of_any_kind(*found).backward()


def test_a_nan_reaches_the_gradients():
    leaves, target_N, counts_N = operands()
    (
        weighted(counts_N, 0.0)(*chunked(*leaves, target_N, LossOptions(1.0, False), Announced(counts_N, 0.0))) * float("nan")
    ).backward()
    assert all(t.grad.isnan().all() for t in leaves)


def test_no_tokens_and_no_weight_give_zero_gradients():
    leaves, target_N, counts_N = operands()
    (hidden_ND, weight_VD, bias_V), options = leaves, LossOptions(1.0, False)
    for announced in (Announced(counts_N[:0], 0.0), None):
        found = chunked(hidden_ND[:0], weight_VD, bias_V, target_N[:0], options, announced)
        (found[0].sum() + found[1].sum() * 0).backward()
    zero_N = torch.zeros(N)
    (chunked(*leaves, target_N, options, Announced(zero_N, 0.0))[0] * zero_N).sum().backward()
    assert all(float(t.grad.abs().max()) == 0 for t in leaves)


def test_no_tensor_as_large_as_all_logits_is_made():
    seen = []

    class Sizes(TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            made = func(*args, **(kwargs or {}))
            seen.extend(t.numel() for t in (made if isinstance(made, tuple) else (made,)) if isinstance(t, torch.Tensor))
            return made

    leaves, target_N, counts_N = operands()
    for announced in (Announced(counts_N, 0.0), None):
        with Sizes():
            weighted(counts_N, 0.0)(*chunked(*leaves, target_N, LossOptions(1.0, False), announced)).backward()
    assert max(seen) <= V * D < N * V
