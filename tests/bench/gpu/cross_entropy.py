"""The output layer and its loss on the device: each backend against torch's own, with memory and time."""

from __future__ import annotations

from functools import partial
from typing import Any

from tests.bench.gpu.check import Check, device, milliseconds

TOKENS, HIDDEN, VOCABS = 8192, 2048, {"50k": 50_304, "152k": 151_936}


def _operands(smoke: bool, vocab: int) -> Any:
    import torch

    tokens, hidden, vocab = (128, 32, 1000) if smoke else (TOKENS, HIDDEN, vocab)
    torch.manual_seed(0)
    kind = {"device": device(), "dtype": torch.bfloat16}
    hidden_ND = torch.randn(tokens, hidden, **kind).requires_grad_()
    weight_VD = (torch.randn(vocab, hidden, **kind) * hidden**-0.5).requires_grad_()
    return hidden_ND, weight_VD, torch.randint(0, vocab, (tokens,), device=device())


def _torch(hidden_ND: Any, weight_VD: Any, target_N: Any) -> Any:
    import torch

    logits_NV = torch.nn.functional.linear(hidden_ND, weight_VD)
    return torch.nn.functional.cross_entropy(logits_NV.float(), target_N, reduction="sum")


def _ours(backend: str, hidden_ND: Any, weight_VD: Any, target_N: Any) -> Any:
    import torch

    from raylm.model.cross_entropy import Announced, LossOptions, chunked, plain

    options, weight_N = LossOptions(1.0, backend == "fused"), torch.ones(len(target_N), device=target_N.device)
    if backend == "plain":
        return -plain(hidden_ND, weight_VD, None, target_N, options)[0].sum()
    return -chunked(hidden_ND, weight_VD, None, target_N, options, Announced(weight_N, 0.0))[0].sum()


def _measured(loss: Any, operands: Any, smoke: bool) -> tuple[Any, dict[str, float]]:
    """(loss, gradients), and peak memory beyond the operands and milliseconds, forward and backward."""
    import torch

    hidden_ND, weight_VD, _ = operands

    def once() -> Any:
        hidden_ND.grad = weight_VD.grad = None
        total = loss(*operands)
        total.backward()
        return total.detach()

    took, peak = milliseconds(once, 1 if smoke else 5), 0
    if device() == "cuda":
        hidden_ND.grad = weight_VD.grad = None
        torch.cuda.reset_peak_memory_stats()
        before = torch.cuda.memory_allocated()
        once()
        peak = torch.cuda.max_memory_allocated() - before
    total = once()
    return (total.float(), hidden_ND.grad.float(), weight_VD.grad.float()), {"gb": peak / 1e9, "ms": took}


def against_torch(backend: str, vocab: str, smoke: bool) -> dict[str, Any]:
    """Relative distance of the loss and of both gradients; memory and time over torch's."""
    operands = _operands(smoke, VOCABS[vocab])
    expected, theirs = _measured(_torch, operands, smoke)
    found, ours = _measured(partial(_ours, backend), operands, smoke)
    far = [float((a - b).norm() / b.norm()) for a, b in zip(found, expected, strict=True)]
    return {"ok": far[0] < 1e-4 and max(far[1:]) < 2e-2, "loss": far[0], "gradients": max(far[1:]),
            **ours, "torch_gb": theirs["gb"], "torch_ms": theirs["ms"]}  # fmt: skip


CHECKS = {
    f"{backend}_{vocab}": Check(partial(against_torch, backend, vocab), 90 if backend == "fused" else 45)
    for vocab in VOCABS
    for backend in ("chunked", "fused", "plain")
}
