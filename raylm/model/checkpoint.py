"""Takes weights, a config and a tokenizer, leaves a folder that transformers, vLLM and everybody else can load."""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.artifact import WORK
from raylm.core.storage import Folder
from raylm.model.load import auto_class, load_tokenizer
from raylm.model.weight_files import write_weights

if TYPE_CHECKING:
    import torch


def write_checkpoint(
    out: Folder,
    config: Any,
    weights: dict[str, torch.Tensor] | Iterable[tuple[str, torch.Tensor]],
    tokenizer: str,
    extra: Callable[[Path], None] | None = None,
) -> None:
    """Write config.json, safetensors, generation config and tokenizer files to `out`, each whole or not at all.

    Args:
        config: the transformers config of the model.
        weights: full tensors by Hugging Face name, or one after the other (`Engine.stream`): few are held at a time then.
        tokenizer: folder (or hub name) of the tokenizer.
        extra: writes more files into the folder it is given.
    """
    import torch
    from transformers import GenerationConfig

    # a fresh model without memory knows how its class is stored; the trained one may be sharded or full of adapters
    with torch.device("meta"):
        plain: Any = auto_class(config).from_config(config)
    plain.generation_config = GenerationConfig.from_model_config(config)
    # inside the work folder: what a kill leaves of it is no payload
    near = (out / WORK).make().uri if out.is_local else None
    with tempfile.TemporaryDirectory(prefix=".checkpoint-", dir=near) as at:
        named: Any = weights.items() if isinstance(weights, dict) else weights
        write_weights(Path(at), plain, named)
        plain.config.dtype, plain.config.architectures = str(plain.dtype).removeprefix("torch."), [type(plain).__name__]
        plain.config.save_pretrained(at)
        plain.generation_config.save_pretrained(at)
        load_tokenizer(tokenizer).save_pretrained(at)
        if extra:
            extra(Path(at))
        publish(Path(at), out)


def publish(folder: Path, out: Folder) -> None:
    """Move every file below the local `folder` into `out`."""
    for path in sorted(p for p in folder.rglob("*") if p.is_file()):
        with out.writing(str(path.relative_to(folder))) as target:
            shutil.copyfile(path, target)


def num_parameters(model: torch.nn.Module) -> int:
    """Number of weights, shared ones counted once, adapters not counted."""
    return sum(p.numel() for name, p in model.named_parameters() if ".lora_" not in name)
