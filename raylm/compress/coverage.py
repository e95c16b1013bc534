"""Coverage of a quantized model: the share of the parameters that is rounded, and the names of those that are not."""

from __future__ import annotations

import json
import re
import struct
from collections import Counter
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

MOST_LEFT = 0.05
"""Share of the parameters in matrices, embeddings and output head apart, that may stay as they are: routers, convolutions."""

# one of several experts that are layers of their own
EXPERT = re.compile(r"expert\w*\.\d+\.")
# safetensors' names of what is not rounded: F8_E4M3 is
WHOLE = ("F64", "F32", "F16", "BF16")
SCALES = re.compile(r"_(scale|zero_point|shape|g_idx)$")


def layers_to_round(model: torch.nn.Module) -> tuple[list[str], list[str]]:
    """Names of the linear layers that can be rounded, and of the modules that keep their weights.

    Raises:
        ConfigError: matrices that cannot be rounded hold more than `MOST_LEFT` of the parameters.
    """
    import torch

    whole: Any = model
    keep = {id(whole.get_output_embeddings())}
    rounded, kept, left = [], [], Counter()
    total = num_rounded = 0
    seen: set[int] = set()
    for name, module in model.named_modules():
        # a subclass has a forward of its own, of which compressed-tensors knows nothing
        linear = type(module) is torch.nn.Linear and not EXPERT.search(f"{name}.")
        own = [(key, weight) for key, weight in module.named_parameters(recurse=False) if id(weight) not in seen]
        seen.update(id(weight) for _, weight in own)
        total += sum(weight.numel() for _, weight in own)
        if linear and id(module) not in keep:
            rounded.append(name)
            num_rounded += sum(weight.numel() for key, weight in own if key == "weight")
        elif id(module) in keep or isinstance(module, torch.nn.Linear):
            kept.append(name)
        if isinstance(module, torch.nn.Embedding) or id(module) in keep:
            continue
        matrices = [(key, weight) for key, weight in own if weight.dim() > 1 and not (linear and key == "weight")]
        for key, weight in matrices:
            left[_pattern(f"{name}.{key}")] += weight.numel()
        if matrices and name not in kept:
            kept.append(name)
    if left.total() > MOST_LEFT * (num_rounded + left.total()):
        names = ", ".join(f"{name} ({count / total:.0%})" for name, count in left.most_common(4))
        raise ConfigError(
            f"only linear layers can be rounded; {left.total() / total:.0%} of the parameters would stay as they are: {names}",
            next="serve this model as it is: experts are not rounded yet, and Conv1D layers have no form that vLLM loads rounded",
        )
    return rounded, kept


def left_in(folder: Path) -> Counter[str]:
    """Parameters that lie unrounded in the safetensors files of `folder`, by the name of their tensors."""
    left: Counter[str] = Counter()
    for file in sorted(folder.glob("*.safetensors")):
        with file.open("rb") as stream:
            header = json.loads(stream.read(struct.unpack("<Q", stream.read(8))[0]))
        for name, tensor in header.items():
            if name != "__metadata__" and tensor["dtype"] in WHOLE and not SCALES.search(name):
                size = 1
                for width in tensor["shape"]:
                    size *= width
                left[_pattern(name)] += size
    return left


def _pattern(name: str) -> str:
    """A tensor's name, the same for all layers and experts."""
    return re.sub(r"\.\d+(?=\.|$)", ".*", name)
