"""A plain checkpoint with other values in its tensors, one file of weights held at a time."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import torch


def changed_copy(folder: Path, to: Path, change: Callable[[str, torch.Tensor], torch.Tensor]) -> Path:
    """Write the checkpoint in the local `folder` to the new folder `to`, each tensor as `change(name, tensor)` gives it; files
    that hold no weights are copied."""
    from safetensors.torch import load_file, save_file

    to.mkdir(parents=True)
    for file in sorted(path for path in folder.iterdir() if path.is_file()):
        if file.suffix != ".safetensors":
            shutil.copyfile(file, to / file.name)
            continue
        tensors = {name: change(name, tensor) for name, tensor in load_file(file).items()}
        save_file(tensors, to / file.name, metadata={"format": "pt"})
    return to
