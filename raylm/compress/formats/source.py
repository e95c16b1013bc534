"""What a format is given, and what it says of what it wrote."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.storage import Folder


class Rounded(NamedTuple):
    """A model that a method has rounded."""

    model: Any
    compressor: Any
    """Of compressed-tensors: its `update_config` marks a folder."""
    num_parameters: int
    bytes_before: int
    dtype_before: str


class Source(NamedTuple):
    """A checkpoint to write."""

    path: str
    """Folder, bucket or hub name of a checkpoint in Hugging Face's layout: config, tokenizer, weights as they are stored."""
    rounded: Rounded | None = None
    """The model in memory, where a method has rounded it."""


class Written(NamedTuple):
    """What was written: the variant of the checkpoint (`raylm.core.variants`), and what its manifest says."""

    variant: str
    facts: dict[str, Any]
    metrics: dict[str, float]


def weight_bytes(folder: Path) -> int:
    """Bytes of the safetensors files in the local `folder`."""
    return sum(file.stat().st_size for file in folder.glob("*.safetensors"))


def written_bytes(out: Folder, ending: str | tuple[str, ...]) -> int:
    """Bytes of the files in `out` whose names end so."""
    return sum(out.size(name) for name in out.files() if name.endswith(ending))
