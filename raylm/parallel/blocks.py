"""The transformer blocks of a model: the units of sharding, activation checkpointing and compilation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.model.transformers_private import unsplit_classes

if TYPE_CHECKING:
    import torch


def blocks(model: torch.nn.Module) -> list[torch.nn.Module]:
    """The transformer blocks: the modules that the model's class lists as not to be split over devices."""
    names = unsplit_classes(model)
    if not names:
        # peft wraps the model, so the class that knows lies further in
        names = {name for module in model.modules() for name in unsplit_classes(module)}
    # an encoder's embeddings may not be split either, but their matrix is tied to the output layer, outside
    names = {name for name in names if not name.endswith("Embeddings")}
    return [module for module in model.modules() if type(module).__name__ in names]


def runs(model: torch.nn.Module) -> list[list[torch.nn.Module]]:
    """The blocks in consecutive runs: all of them, or those of each pipeline stage that this rank holds."""
    for module in model.modules():
        stages: Any = getattr(module, "stages", None)
        if stages is not None:
            return stages()
    return [found] if (found := blocks(model)) else []


def separate_experts(model: torch.nn.Module) -> str | None:
    """Name of the first group of trained experts that are modules of their own: one that gets no token has no gradient. Most
    families hold all experts of a layer in one tensor."""
    import torch

    kinds = (torch.nn.ModuleList, torch.nn.ModuleDict)
    named = ((name, module) for name, module in model.named_modules() if name.endswith("experts") and isinstance(module, kinds))
    return next((name for name, module in named if any(p.requires_grad for p in module.parameters())), None)
