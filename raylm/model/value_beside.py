"""A value beside each token's log-probability, from the same hidden state: a critic that shares its policy's backbone.

The layer is a part of the model, which trains and checkpoints it; it is left out of what is exported and sent to engines, which
know no such layer.
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

VALUE_HEAD = "value_head"
"""Its name in the model."""


def with_value_beside(model: Any, seed: int) -> Any:
    """`model` with a value head beside its output layer, which `Asks.beside` asks. Changes `model`.

    Args:
        seed: of the new head's weights.

    Raises:
        ConfigError: the model has a module of this name, or no linear output layer.
    """
    import torch

    from raylm.model.adapters.output import plain_layer

    if hasattr(model, VALUE_HEAD):
        raise ConfigError(f"{type(model).__name__} has a {VALUE_HEAD} of its own", next='critic = {backbone = "own"}')
    head = model.get_output_embeddings()
    plain = plain_layer(head)
    if not isinstance(plain, torch.nn.Linear):
        raise ConfigError(f"{type(model).__name__} has no linear output layer", next="take another model")
    weight = plain.weight
    layer = torch.nn.Linear(plain.in_features, 1, bias=False, device=weight.device, dtype=weight.dtype)
    draw = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        drawn = torch.empty(layer.weight.shape).normal_(0.0, getattr(model.config, "initializer_range", 0.02), generator=draw)
        layer.weight.copy_(drawn)
    setattr(model, VALUE_HEAD, layer)
    # in a tuple: the output layer asks it, and is not its owner
    head.beside = (layer,)
    return model


def own_tensors(stream: Iterator[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
    """A model's tensors without those of a value head beside it."""
    return ((name, tensor) for name, tensor in stream if not name.startswith(f"{VALUE_HEAD}."))
