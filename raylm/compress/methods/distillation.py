"""Quantization-aware distillation: the roundings, scales and norms of a rounded model follow the gradient of the KL divergence
from the original's own predictions.

original -> what enters its output head on each row, kept -> logits, made anew each step
rounded  -> weight = clamp(round(latent)) * scale, gradient straight through the rounding (https://arxiv.org/abs/1308.3432)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple, cast

import torch

if TYPE_CHECKING:
    from raylm.compress.calibration import Calibration
    from raylm.compress.methods.grid import Grid
    from raylm.compress.methods.hessian import Fitted


class Tuning(NamedTuple):
    """How long, and how far."""

    steps: int
    batch_tokens: int
    lr: float
    lr_scales: float


class Tuned(NamedTuple):
    """Scales [O, G] by layer, and what the divergence was in the first and last steps."""

    scales: dict[str, torch.Tensor]
    metrics: dict[str, float]


class FakeRound(torch.autograd.Function):
    """latent [O, I], scale [O, G] -> weight [O, I]; the rounding has the gradient of the identity inside of the grid."""

    @staticmethod
    def forward(ctx: Any, latent: torch.Tensor, scale: torch.Tensor, low: int, high: int) -> torch.Tensor:
        whole = latent.round().clamp_(low, high)
        inside = (latent >= low - 0.5) & (latent <= high + 0.5)
        ctx.save_for_backward(whole.to(torch.int8), scale, inside)
        groups = whole.unflatten(1, (scale.shape[1], -1))
        return (groups * scale[..., None]).flatten(1)

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        whole, scale, inside = ctx.saved_tensors
        groups = grads[0].unflatten(1, (scale.shape[1], -1))
        of_scale = (groups * whole.unflatten(1, (scale.shape[1], -1))).sum(-1)
        return (groups * scale[..., None]).flatten(1) * inside, of_scale, None, None


class Divergence(torch.autograd.Function):
    """Sum over tokens of KL(original || rounded), of logits [..., V]. Its gradient is known while both are there: the difference
    of the probabilities."""

    @staticmethod
    def forward(ctx: Any, given: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        ours, theirs = given.float().log_softmax(-1), wanted.float().log_softmax(-1)
        chances = theirs.exp()
        total = (chances * (theirs - ours)).sum()
        ctx.save_for_backward(ours.exp_().sub_(chances).to(given.dtype))
        return total

    @staticmethod
    def backward(ctx: Any, *grads: torch.Tensor) -> Any:
        return ctx.saved_tensors[0] * grads[0], None


class Rounded(torch.nn.Module):
    """A weight as `torch.nn.utils.parametrize` makes it of its latent."""

    def __init__(self, fitted: Fitted, grid: Grid) -> None:
        super().__init__()
        self.low, self.high = grid.low, grid.high
        self.register_buffer("start", fitted.scale_OG.clone(), persistent=False)
        self.log = torch.nn.Parameter(torch.zeros_like(fitted.scale_OG))

    def scale(self) -> torch.Tensor:
        # relative: small and large scales move alike, and none changes its sign
        return self.start * self.log.exp()  # type: ignore[operator]

    def forward(self, latent: torch.Tensor) -> Any:
        return FakeRound.apply(latent, self.scale(), self.low, self.high)


def head_inputs(model: Any, calibration: Calibration) -> list[torch.Tensor]:
    """What enters the output head of `model` for each calibration row, [tokens, width], in the order of its batches."""
    found: list[torch.Tensor] = []
    head = model.get_output_embeddings()
    calibration.inputs(model, lambda _, x: found.extend(x.unbind(0)), only=lambda _, module: module is head)
    return found


def predictor(model: Any) -> Callable[[torch.Tensor], torch.Tensor]:
    """What gives the logits of `model` for what enters its output head: with the soft cap or scale that it puts behind it.

    Raises:
        ConfigError: it changes its logits in a way that is not known.
    """
    from raylm.model.logit_processing import change_of

    head, change = model.get_output_embeddings(), change_of(model)

    def logits(hidden: torch.Tensor) -> torch.Tensor:
        given = head(hidden)
        given = (given if change.bias_V is None else given + change.bias_V) * change.scale
        return given if change.cap is None else change.cap * (given / change.cap).tanh()

    return logits


def tune(
    model: Any,
    calibration: Calibration,
    own: list[torch.Tensor],
    fitted: dict[str, Fitted],
    grids: dict[str, Grid],
    how: Tuning,
) -> Tuned:
    """Distil the original's predictions into the model that `round_blocks` has rounded, in place.

    Args:
        own: of the original, see `head_inputs`.
        fitted: what the weights were rounded to, and from.
    """
    from torch.nn.utils import parametrize

    device = next(model.parameters()).device
    rows = [row for batch in calibration.batches(device) for row in batch]
    model.requires_grad_(False)
    for name, each in fitted.items():
        layer = model.get_submodule(name)
        # outside of the grid no gradient would bring it back
        layer.weight.data = each.latent_OI.clamp(grids[name].low - 0.49, grids[name].high + 0.49)
        parametrize.register_parametrization(layer, "weight", Rounded(each, grids[name]), unsafe=True)
    roundings = {name: model.get_submodule(name).parametrizations.weight for name in fitted}
    latents = [each.original.requires_grad_(True) for each in roundings.values()]
    scales = [each[0].log.requires_grad_(True) for each in roundings.values()]
    norms = [p.requires_grad_(True) for name, p in model.named_parameters() if p.dim() == 1 and re.search("norm", name, re.I)]
    sizes = [float(p.detach().abs().mean().clamp(min=1e-3)) for p in norms]
    optimizer = torch.optim.Adam(
        [
            {"params": latents, "peak": how.lr},
            {"params": scales, "peak": how.lr_scales},
            *({"params": [p], "peak": how.lr_scales * size} for p, size in zip(norms, sizes, strict=True)),
        ],
        betas=(0.9, 0.95),
    )
    losses = _descend(model, rows, own, optimizer, how)
    found = {}
    for name, each in roundings.items():
        layer: Any = model.get_submodule(name)
        found[name] = grids[name].stored(each[0].scale().detach())
        whole = each.original.detach().round().clamp(grids[name].low, grids[name].high)
        parametrize.remove_parametrizations(layer, "weight", leave_parametrized=False)
        layer.weight.data = whole * grids[name].spread(found[name], whole.shape[1])
    model.requires_grad_(False)
    few = max(1, len(losses) // 6)
    return Tuned(found, {"kl_start": sum(losses[:few]) / few, "kl_end": sum(losses[-few:]) / few})


def _descend(model: Any, rows: list[Any], own: list[torch.Tensor], optimizer: Any, how: Tuning) -> list[float]:
    """Mean KL per token of each step."""
    draw = torch.Generator().manual_seed(0)
    order: list[int] = []
    losses = []
    predict = predictor(model)
    for step in range(how.steps):
        for group in optimizer.param_groups:
            # the first steps of Adam are as long for noise as for anything else
            group["lr"] = group["peak"] * (1 - step / how.steps) * min(1.0, (step + 1) / (1 + how.steps // 8))
        picked: list[int] = []
        while not picked or sum(len(rows[at]) for at in picked) < how.batch_tokens:
            order = order or torch.randperm(len(rows), generator=draw).tolist()
            picked.append(order.pop())
        count, total = sum(len(rows[at]) for at in picked), 0.0
        for same in _of_equal_length(picked, rows):
            hidden = torch.stack([own[at] for at in same])
            with torch.no_grad():
                wanted = predict(hidden)
            given = model(input_ids=torch.stack([rows[at] for at in same]), use_cache=False).logits
            loss = cast(torch.Tensor, Divergence.apply(given, wanted)) / count
            loss.backward()
            total += float(loss.detach())
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(total)
    return losses


def _of_equal_length(picked: list[int], rows: list[Any]) -> list[list[int]]:
    by_length: dict[int, list[int]] = {}
    for at in picked:
        by_length.setdefault(len(rows[at]), []).append(at)
    return list(by_length.values())
