"""Creates the state of an optimizer before its first step, so that a checkpoint can hold it."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def begin_moments(optimizer: torch.optim.Optimizer) -> None:
    """Make the state that `optimizer` lacks. Nothing happens where it has stepped.

    Torch makes it by a step without effect, and counts that: the corrections of a moment's bias would be a step ahead.
    """
    from raylm.model.torch_private import init_optimizer_state

    if optimizer.state:
        return
    init_optimizer_state(optimizer)
    made = optimizer.state_dict()
    for each in made["state"].values():
        if "step" in each:
            each["step"] = each["step"] * 0
    optimizer.load_state_dict(made)
