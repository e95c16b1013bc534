"""Merges adapters into the weights they stand beside, layer by layer as their tensors come, by peft's own layers.

stream of a peft model's state --> tensors of one adapted layer --> peft's layer of them, in float32 --> merged, rounded once
"""

from __future__ import annotations

import copy
import re
from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Any

from raylm.core.errors import TrainingError

if TYPE_CHECKING:
    import torch

PEFT = "base_model.model."
"""Before every name of a model with adapters."""
PARTS = (".lora_", ".modules_to_save.", ".trainable_tokens_delta.", ".trainable_tokens_original.")
"""In the names of what an adapter has beside the model's own tensors."""
# what peft puts before the name of a tensor that a layer had before
WRAPPED = re.compile(r"^((base_layer|original_module|token_adapter)\.)+")

Layers = dict[str, Any]
"""peft's layers without memory, by the name of the module each stands for."""


def is_part(name: str) -> bool:
    """Whether a tensor of a peft model belongs to the adapter, by its name."""
    return any(part in f".{name}" for part in PARTS)


def adapted_layers(model: Any) -> Layers:
    """The outermost layers that peft put around those of `model`, without memory: how they merge is known by them on a rank that
    holds neither the whole model nor whole tensors."""
    from peft.tuners.tuners_utils import BaseTunerLayer
    from peft.utils.other import AuxiliaryTrainingWrapper

    found: Layers = {}
    last = None
    for name, module in model.named_modules():
        if isinstance(module, (BaseTunerLayer, AuxiliaryTrainingWrapper)) and not (last and name.startswith(f"{last}.")):
            found[name], last = _without_memory(module), name
    return found


def merged(
    layers: Layers,
    weights: Iterable[tuple[str, torch.Tensor]],
    adapters: dict[str, torch.Tensor],
    fold: Callable[[Any, dict[str, torch.Tensor]], dict[str, torch.Tensor]],
) -> Iterator[tuple[str, torch.Tensor]]:
    """Plain weights in the base model's names, one after the other.

    Args:
        weights: a peft model's full state, a layer's tensors near each other.
        adapters: filled with the adapter's tensors.
        fold: the plain tensors of one layer, of peft's layer and its tensors.

    Raises:
        TrainingError: an adapter holds values that are not finite.
    """
    waiting: dict[str, dict[str, torch.Tensor]] = {}
    needed = {at: set(layer.state_dict()) for at, layer in layers.items()}
    for name, tensor in weights:
        at = _owner(name, layers)
        if at is None:
            yield name.removeprefix(PEFT), tensor
            continue
        if is_part(name):
            adapters[name] = tensor
            if not tensor.isfinite().all():
                raise TrainingError(f"the adapter of {at.removeprefix(PEFT)} is not finite")
        parts = waiting.setdefault(at, {})
        parts[name.removeprefix(f"{at}.")] = tensor
        if parts.keys() >= needed[at]:
            plain = fold(layers[at], waiting.pop(at))
            yield from ((f"{at.removeprefix(PEFT)}.{part}", whole) for part, whole in plain.items())
    assert not waiting, f"no adapters came for {sorted(waiting)}"


def fold(layer: Any, parts: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """The tensors of one layer with its adapter merged into copies: in float32, rounded once to the dtypes that they had.

    Args:
        layer: of `adapted_layers`.
        parts: its state, whole tensors.
    """
    import torch

    before = {WRAPPED.sub("", name): tensor.dtype for name, tensor in parts.items() if not is_part(name)}
    wide = {name: tensor.float() if tensor.is_floating_point() else tensor for name, tensor in parts.items()}
    filled = copy.deepcopy(layer)
    filled.load_state_dict(wide, assign=True)
    with torch.no_grad():
        # safe: into a copy, for the tensors may be the model's own
        if hasattr(filled, "unload_and_optionally_merge_module"):
            plain = filled.unload_and_optionally_merge_module(merge=True, safe_merge=True, adapter_names=None)
        else:
            filled.merge(safe_merge=True)
            plain = filled.get_base_layer()
    return {name: tensor.detach().to(before[name]) for name, tensor in plain.state_dict().items()}


def _owner(name: str, layers: Layers) -> str | None:
    """The adapted layer that a tensor belongs to."""
    at = name
    while at:
        at = at.rpartition(".")[0]
        if at in layers:
            return at
    return None


def _without_memory(module: Any) -> Any:
    import torch

    empty = {
        id(p): torch.nn.Parameter(torch.empty(p.shape, dtype=p.dtype, device="meta"), requires_grad=p.requires_grad)
        for p in module.parameters()
    }
    made = copy.deepcopy(module, dict(empty))
    base = getattr(made, "base_layer", None)
    if isinstance(base, torch.nn.Linear) and base.weight.dim() == 1:
        # stored in few bits, as one vector: the stream gives the matrix that these stand for
        with torch.device("meta"):
            made.base_layer = torch.nn.Linear(base.in_features, base.out_features, base.bias is not None)
    return made
