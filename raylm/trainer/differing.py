"""The first layer in which a written model and the trained one part, found by the outputs of their modules on one sequence."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

    from raylm.model.head import Asks
    from raylm.model.scores import Inputs
    from raylm.parallel.engine import Engine

PREFIX = "base_model.model."
"""Before the names of a peft model's modules."""
WRAPPERS = ("_checkpoint_wrapped_module.", "_orig_mod.")
"""In names of modules that are wrapped to be compiled, or computed again in the backward pass."""
TOKENS = 128
"""Most tokens of the sequence."""
APART = {"float32": 1e-4, "other": 5e-2}
"""Relative difference of a module's output that rounding does not explain."""


def first_differing(engine: Engine, model: Any, inputs: Sequence[Inputs], asks: Asks, worst: int) -> str:
    """`; the first layer that differs is ...`, "" where no layer can be named. Every rank must call.

    Args:
        model: the written one, on rank 0.
        worst: on rank 0 the number of the input to look at.
    """
    from raylm.model.scores import ask

    # the number travels: ranks meet in the forward pass of the same input
    (at,) = engine.most([float(worst)])
    one = _first_row(inputs[int(at)])
    with _outputs(engine.bare) as ours:
        engine.forward([one], asks)
    if engine.rank or model is None:
        return ""
    import torch

    with torch.no_grad(), _outputs(model) as theirs:
        ask(model, one, asks, "chunked")
    exact = next(model.parameters()).dtype == torch.float32
    return _in_words(_apart(ours, theirs), APART["float32" if exact else "other"])


def _in_words(apart: dict[str, float], limit: float) -> str:
    if not apart:
        return "; no layer can be named: ranks hold parts of each"
    before = 0.0
    for name, value in apart.items():
        if not value <= limit:
            return f"; the first layer that differs is {name} (by {value:.1%} of its output, layers before it by {before:.1g})"
        before = max(before, value)
    name = max(apart, key=lambda each: apart[each])
    return f"; no layer differs much, {name} most (by {apart[name]:.2g} of its output)"


def _apart(ours: dict[str, torch.Tensor], theirs: dict[str, torch.Tensor]) -> dict[str, float]:
    """Relative difference of each module's output that both have whole, in the order in which the written model makes them."""
    found = {}
    for name, right in theirs.items():
        left = ours.get(name)
        if left is not None and left.shape == right.shape:
            found[name] = float((left - right).norm() / right.norm().clamp(min=1e-12))
    return found


@contextmanager
def _outputs(model: torch.nn.Module) -> Iterator[dict[str, torch.Tensor]]:
    """Outputs of the model's modules by name, filled while it runs; adapters' own parts are left out."""
    import torch

    found: dict[str, torch.Tensor] = {}

    def keep(name: str) -> Any:
        def hook(module: Any, given: Any, made: Any) -> None:
            value = made[0] if isinstance(made, tuple) and made else made
            if isinstance(value, torch.Tensor) and value.is_floating_point():
                local: Any = value
                local = local.to_local() if hasattr(local, "to_local") else local
                found[name] = local.detach().float().cpu().clone()

        return hook

    handles = []
    for name, module in model.named_modules():
        for part in WRAPPERS:
            name = name.replace(part, "")
        name = name.removeprefix(PREFIX)
        # a block differs because a layer in it does: layers come first, and are named
        if name and ".base_layer" not in name and ".lora_" not in name:
            handles.append(module.register_forward_hook(keep(name)))
    try:
        yield found
    finally:
        for handle in handles:
            handle.remove()


def _first_row(inputs: Inputs) -> Inputs:
    """The first sequence of `inputs`, as one input; a short one where it is a plain sequence of tokens."""
    rows = len(inputs.weight_BT)
    at = int((inputs.weight_BT != 0).sum(1).argmax())
    feed = {name: value[at : at + 1] if _of_rows(value, rows) else value for name, value in inputs.feed.items()}
    one = inputs._replace(feed=feed, target_BT=inputs.target_BT[at : at + 1], weight_BT=inputs.weight_BT[at : at + 1])
    if set(feed) != {"input_ids"} or not one.weight_BT[:, :TOKENS].any():
        return one
    return one._replace(
        feed={"input_ids": feed["input_ids"][:, :TOKENS]},
        target_BT=one.target_BT[:, :TOKENS],
        weight_BT=one.weight_BT[:, :TOKENS],
    )


def _of_rows(value: Any, rows: int) -> bool:
    return hasattr(value, "shape") and len(value.shape) > 0 and len(value) == rows
