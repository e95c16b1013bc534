"""A checkpoint with the values that a GGUF file of some dtype holds: how far rounding alone moves a model from itself."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raylm.model.changed_copy import changed_copy
from raylm.model.gguf.types import encode
from raylm.model.gguf.write import types_of


def rounded_copy(folder: Path, dtype: str, to: Path) -> Path:
    """Write the plain checkpoint in the local `folder` to the new folder `to`, each matrix rounded as the file's type of it
    does. Nothing else of the file (names, order of rows) is in it: what a program that reads the file differs by beyond that is
    no rounding.

    Raises:
        ConfigError: as `write_gguf`.
    """
    types = types_of(folder, dtype)
    return changed_copy(folder, to, lambda name, tensor: _rounded(tensor, *types[name]) if name in types else tensor)


def _rounded(tensor: Any, kind: str, turned: bool) -> Any:
    """Values by way of the type, in the dtype that they came in; rows are rounded each by itself, whatever their order."""
    import gguf
    import numpy as np
    import torch

    values = tensor.float().numpy()
    values = np.ascontiguousarray(values.T if turned else values)
    stored = encode(values, kind)
    found = stored.astype(np.float32) if kind == "F16" else gguf.dequantize(stored, gguf.GGMLQuantizationType[kind])
    found = found.reshape(values.shape)
    return torch.from_numpy(np.ascontiguousarray(found.T if turned else found)).to(tensor.dtype)
