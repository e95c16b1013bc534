"""What a format is given, and what it says of what it wrote."""

from __future__ import annotations

from typing import Any, NamedTuple

from raylm.core.artifact import WORK
from raylm.core.storage import Folder


class Changed(NamedTuple):
    """A model that a method has worked on, in memory."""

    model: Any
    compressor: Any
    """Of compressed-tensors: its `update_config` marks a folder. None where the weights stay plain (a pruned model)."""
    num_parameters: int
    """Of the model before."""
    bytes_before: int
    dtype_before: Any
    """The torch.dtype of its weights before."""
    facts: dict[str, Any] = {}
    """What the method says of the checkpoint."""
    metrics: dict[str, float] = {}


class Source(NamedTuple):
    """A checkpoint to write."""

    path: str
    """Folder, bucket or hub name of a checkpoint in Hugging Face's layout: config, tokenizer, weights as they are stored."""
    changed: Changed | None = None
    """The model in memory, where a method has worked on it."""
    prompts: tuple[Any, ...] = ()
    """What an export is proved on (`raylm.compress.consumers.consumer.Prompt`); made of template and text where it is empty."""


class Written(NamedTuple):
    """What was written: the variant of the checkpoint (`raylm.core.variants`), and what its manifest says."""

    variant: str
    facts: dict[str, Any]
    metrics: dict[str, float]


def weight_bytes(folder: Folder, ending: str | tuple[str, ...] = ".safetensors") -> int:
    """Bytes of the files in `folder` whose names end so, less what an attempt before left in its work folder."""
    names = [name for name in folder.files() if name.endswith(ending) and not name.startswith(f"{WORK}/")]
    return sum(map(folder.size, names))
