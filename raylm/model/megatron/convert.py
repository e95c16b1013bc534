"""Converts checkpoints between Hugging Face's and Megatron's layouts; weights are copied bit for bit.

Hugging Face --(one tensor at a time)--> join --> cut over ranks --> mp_rank files, or one distributed checkpoint
Megatron     --(mapped files)--> uncut --> split --> safetensors of bounded size + config and tokenizer from hf/ or `like`
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.storage import Folder
from raylm.model.checkpoint import publish
from raylm.model.load import on_this_machine
from raylm.model.megatron.classic import TRACKER, Classic, write_classic
from raylm.model.megatron.parts import Part, join, parts_of
from raylm.model.megatron.shape import Layout, arguments, check, shape_of
from raylm.model.megatron.stored import Stored
from raylm.model.weight_files import write_stored

if TYPE_CHECKING:
    import torch

BESIDE = "hf"
"""Folder of config and tokenizer beside Megatron's files: what Megatron does not keep."""
NAMES = ("config.json", "generation_config.json", "special_tokens_map.json", "added_tokens.json", "merges.txt")
PATTERNS = (*NAMES, "tokenizer*", "vocab*", "chat_template*", "*.model")


def to_megatron(folder: str, out: str, layout: Layout, form: str = "torch", say: Callable[[str], None] = print) -> None:
    """Write the checkpoint in `folder` to `out`, sharded by `layout`. Dtypes are kept, weights are bit-equal.

    Args:
        form: `torch` (files of ranks, read by --ckpt-format torch) or `torch_dist`.

    Raises:
        ConfigError: the model has no such layout.
        ArtifactError: tensors are missing, or would be lost.
    """
    source, into = Path(on_this_machine(folder)), Folder(out)
    if form == "torch_dist" and not into.is_local:
        raise ConfigError("a distributed checkpoint is written to a disk", where=into.uri, next="copy it to the bucket then")
    config = _config(source)
    shape = shape_of(config)
    check(shape, layout)
    stored, parts = Stored(source), parts_of(shape)
    ignored = ["lm_head.weight"] if shape.tied else []
    stored.check((name for part in parts for name in part.sources), ignored)
    args = arguments(config, shape, layout, stored.read(parts[0].sources[0]).dtype)

    def read(part: Part) -> torch.Tensor:
        return join(part, [stored.read(name) for name in part.sources], shape)

    _copy(source, into / BESIDE)
    if form == "torch":
        write_classic(into, shape, layout, args, read, say)
    else:
        from raylm.model.megatron.distributed import write_distributed

        write_distributed(into, shape, layout, args, read, say)


def from_megatron(folder: str, out: str, like: str | None = None, max_bytes: int | None = None) -> None:
    """Write Megatron's newest checkpoint in `folder` to `out` as safetensors with config and tokenizer.

    Args:
        like: a folder (or hub name) whose config and tokenizer the model has; those that `to_megatron` left when it is None.

    Raises:
        ArtifactError: tensors are missing, or have no place in the model that the config describes.
    """
    source, into = Path(on_this_machine(folder)), Folder(out)
    described = Path(on_this_machine(like)) if like else source / BESIDE
    if not (described / "config.json").is_file():
        raise ArtifactError("no config.json here", where=str(described), next="name a folder of the same model with --like")
    shape = shape_of(_config(described))
    found = _newest(source)
    if (found / "metadata.json").is_file():
        from raylm.model.megatron.distributed import Distributed

        opened: Any = Distributed(found)
    else:
        opened = Classic(found)
    near = into.make().uri if into.is_local else None
    with tempfile.TemporaryDirectory(prefix=".checkpoint-", dir=near) as at:
        write_stored(Path(at), opened.weights(shape), *([max_bytes] if max_bytes else []))
        _copy(described, Folder(at))
        publish(Path(at), into)


def _config(folder: Path) -> Any:
    from transformers import AutoConfig

    if not (folder / "config.json").is_file():
        raise ArtifactError("no config.json here", where=str(folder), next="name a checkpoint's folder")
    return AutoConfig.from_pretrained(folder, trust_remote_code=False)


def _newest(folder: Path) -> Path:
    """The folder of the checkpoint that Megatron would load; `folder` itself where it is one."""
    if not (folder / TRACKER).is_file():
        return folder
    iteration = (folder / TRACKER).read_text().strip()
    found = folder / ("release" if iteration == "release" else f"iter_{int(iteration):07d}")
    if not found.is_dir():
        raise ArtifactError(f"{TRACKER} names {iteration}, there is no {found.name}/", where=str(folder))
    return found


def _copy(source: Path, to: Folder) -> None:
    """Copy config and tokenizer, no weights."""
    for path in sorted({path for pattern in PATTERNS for path in source.glob(pattern) if path.is_file()}):
        with to.writing(path.name) as target:
            shutil.copyfile(path, target)
