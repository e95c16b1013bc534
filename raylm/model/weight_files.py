"""Writes tensors one by one into safetensors files of bounded size with an index, as Hugging Face names them."""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.model.transformers_private import ignored_on_save

if TYPE_CHECKING:
    import torch

MAX_BYTES = 5 * 10**9
BLOCK = re.compile(r".*?\.\d+\.")


class Written(NamedTuple):
    """What was found out while weights went by."""

    tied: bool
    """Whether all tensors that the class ties were equal, and so are stored once."""
    dtype: str | None
    """Dtype of most values, as torch spells it."""


def write_weights(
    folder: Path,
    plain: Any,
    weights: Iterable[tuple[str, torch.Tensor]],
    max_bytes: int = MAX_BYTES,
    dtypes: dict[str, torch.dtype] | None = None,
    usual: torch.dtype | None = None,
) -> Written:
    """Write `model*.safetensors` to the local `folder`; one file's tensors, one block's and tied ones are held at a time.

    Args:
        plain: a transformers model of the same class (without memory): it knows which names are stored, and how.
        weights: whole tensors by the model's own names, those of a block next to each other.
        dtypes: what stored names are written in; `usual` is for all other floats, None leaves them alone.
    """
    from transformers.core_model_loading import revert_weight_conversion

    ignored = ignored_on_save(plain)
    tied, sizes = Tied(dict(plain.all_tied_weights_keys or {})), Counter[str]()

    def stored() -> Iterator[tuple[str, torch.Tensor]]:
        kept = tied.once((name, tensor) for name, tensor in weights if name not in ignored)
        for _, block in groupby(kept, key=lambda named: _block(named[0])):
            # some classes store what is one tensor in the model as several (experts): a block's tensors are converted together
            converted = revert_weight_conversion(plain, {name: tensor.cpu() for name, tensor in block})
            for name, tensor in converted.items():
                cast = _cast(tensor, (dtypes or {}).get(name, usual))
                sizes[str(cast.dtype).removeprefix("torch.")] += cast.nbytes * cast.is_floating_point()
                yield name, cast

    write_stored(folder, stored(), max_bytes)
    return Written(tied.holds, sizes.most_common(1)[0][0] if sizes else None)


class Tied:
    """Of tensors that a class ties, lets one go by where they are equal, and all where they are not.

    Whether they are is seen in their values: cut over ranks or with an adapter beside one of them, they share no memory.

    Args:
        sources: name of the tensor that is stored, by the name of each that is tied to it.
    """

    def __init__(self, sources: dict[str, str]) -> None:
        self._sources, self.holds = sources, True

    def once(self, weights: Iterable[tuple[str, torch.Tensor]]) -> Iterator[tuple[str, torch.Tensor]]:
        """`weights` less what equals its source; all of these at the end where one did not."""
        held: dict[str, torch.Tensor] = {}
        waiting: dict[str, torch.Tensor] = {}
        equal: list[str] = []
        of = set(self._sources.values())
        for name, tensor in weights:
            if name in self._sources:
                waiting[name] = tensor
            else:
                if name in of:
                    held[name] = tensor.detach().to("cpu", copy=True)
                yield name, tensor
            for target in [each for each in waiting if self._sources[each] in held]:
                mine = waiting.pop(target)
                if mine.detach().cpu().equal(held[self._sources[target]]):
                    equal.append(target)
                else:
                    self.holds = False
                    yield target, mine
        if waiting:
            # their source has no tensor of its own here
            self.holds = False
            yield from waiting.items()
        if not self.holds:
            yield from ((target, held[self._sources[target]].clone()) for target in equal)


def _cast(tensor: torch.Tensor, dtype: torch.dtype | None) -> torch.Tensor:
    """`tensor` in `dtype`; as it is where it holds no floats, or values that `dtype` cannot hold."""
    if dtype is None or not tensor.is_floating_point() or not dtype.is_floating_point or tensor.dtype == dtype:
        return tensor
    cast = tensor.to(dtype)
    return tensor if bool((cast.isinf() & ~tensor.isinf()).any()) else cast


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


def weight_names(folder: Path) -> set[str]:
    """Names of all weights in the folder's safetensors files; their headers are read, not the weights."""
    names: set[str] = set()
    for file in folder.glob("*.safetensors"):
        with open(file, "rb") as opened:
            header = json.loads(opened.read(int.from_bytes(opened.read(8), "little")))
        names |= header.keys() - {"__metadata__"}
    return names
