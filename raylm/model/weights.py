"""Takes named tensors, leaves arrays that travel between processes without a copy, and a digest both sides can compute."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any


def as_arrays(named: Iterable[tuple[str, Any]]) -> list[tuple[str, Any]]:
    """(name, numpy array) views of torch CPU tensors; bfloat16 as uint16. Ray's object store shares these without a copy."""
    import torch

    plain = ((name, tensor.detach().cpu().contiguous()) for name, tensor in named)
    return [(name, (t.view(torch.uint16) if t.dtype is torch.bfloat16 else t).numpy()) for name, t in plain]


def weights_digest(named: Iterable[tuple[str, Any]]) -> str:
    """32 hex digits over names, shapes and bytes, in order of names; a torch tensor and its `as_arrays` view agree."""
    hashed = hashlib.blake2b(digest_size=16)
    for name, array in sorted(named, key=lambda pair: pair[0]):
        view = array if not hasattr(array, "detach") else as_arrays([(name, array)])[0][1]
        hashed.update(f"{name} {tuple(view.shape)} {view.dtype.str}\n".encode())
        # a zero-dimensional array cannot be cast to bytes in place
        hashed.update(memoryview(view.reshape(-1)).cast("B"))
    return hashed.hexdigest()


def as_tensor(array: Any) -> Any:
    """The torch tensor behind an array of `as_arrays`, without a copy; a tensor is returned as it is."""
    import warnings

    import numpy
    import torch

    if not isinstance(array, numpy.ndarray):
        return array
    with warnings.catch_warnings():
        # arrays from the object store are read-only; they are only copied from
        warnings.simplefilter("ignore", UserWarning)
        tensor = torch.from_numpy(array)
    return tensor.view(torch.bfloat16) if tensor.dtype is torch.uint16 else tensor


def weight_names(folder: Path) -> set[str]:
    """Names of all weights in the folder's safetensors files; their headers are read, not the weights."""
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        names |= header.keys() - {"__metadata__"}
    return names
