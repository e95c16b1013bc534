"""Takes tensors one after the other, leaves safetensors files of bounded size and their index, as Hugging Face names them."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import torch

MAX_BYTES = 5 * 10**9
BLOCK = re.compile(r".*?\.\d+\.")


def write_weights(folder: Path, plain: Any, weights: Iterable[tuple[str, torch.Tensor]], max_bytes: int = MAX_BYTES) -> None:
    """Write `model*.safetensors` to the local `folder`; one file's tensors and one block's are held at a time.

    Args:
        plain: a transformers model of the same class (without memory): it knows which names are stored, and how.
        weights: whole tensors by the model's own names, those of a block next to each other.
    """
    from transformers.core_model_loading import revert_weight_conversion

    dropped = {*(plain.all_tied_weights_keys or ()), *(plain._keys_to_ignore_on_save or ())}

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        kept = ((name, tensor) for name, tensor in weights if name not in dropped)
        for _, block in groupby(kept, key=lambda named: _block(named[0])):
            # some classes store what is one tensor in the model as several (experts): a block's tensors are converted together
            yield from revert_weight_conversion(plain, {name: tensor.cpu() for name, tensor in block}).items()

    write_stored(folder, stored(), max_bytes)


def write_stored(folder: Path, weights: Iterable[tuple[str, torch.Tensor]], max_bytes: int = MAX_BYTES) -> None:
    """Write `model*.safetensors` to the local `folder`, one file's tensors held at a time; names are those that are stored."""
    files: list[dict[str, int]] = []
    held: dict[str, Any] = {}
    for name, tensor in weights:
        if held and _bytes(held) + tensor.nbytes > max_bytes:
            files.append(_write(folder, len(files), held))
            held = {}
        held[name] = tensor
    files.append(_write(folder, len(files), held))
    _name(folder, files)


def _block(name: str) -> str:
    """The block that a tensor belongs to, "" outside blocks."""
    found = BLOCK.match(name)
    return found.group() if found else ""


def _bytes(tensors: dict[str, Any]) -> int:
    return sum(tensor.nbytes for tensor in tensors.values())


def _write(folder: Path, number: int, tensors: dict[str, Any]) -> dict[str, int]:
    """Write one file; returns the bytes of each of its tensors."""
    from safetensors.torch import save_file

    save_file({name: tensor.contiguous() for name, tensor in tensors.items()}, _part(folder, number), metadata={"format": "pt"})
    return {name: tensor.nbytes for name, tensor in tensors.items()}


def _part(folder: Path, number: int) -> Path:
    return folder / f"part-{number}.safetensors"


def _name(folder: Path, files: list[dict[str, int]]) -> None:
    """Give files their final names, which say how many there are, and write the index of several."""
    if len(files) == 1:
        _part(folder, 0).rename(folder / "model.safetensors")
        return
    places = {}
    for number, names in enumerate(files):
        final = f"model-{number + 1:05d}-of-{len(files):05d}.safetensors"
        _part(folder, number).rename(folder / final)
        places |= dict.fromkeys(names, final)
    index = {"metadata": {"total_size": sum(sum(names.values()) for names in files)}, "weight_map": places}
    (folder / "model.safetensors.index.json").write_text(json.dumps(index, indent=2, sort_keys=True) + "\n")
