"""Reads config.json and the headers of safetensors files in a folder. No torch."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.errors import ArtifactError

CONFIG = "config.json"
WHOLE = "model.safetensors"
INDEX = "model.safetensors.index.json"
ADAPTER = "adapter_config.json"
_POINTER = b"version https://git-lfs"
_AGAIN = "copy or download it again"


class Stored(NamedTuple):
    """One tensor of a file, as its header describes it. Bytes `start` to `end` of the file are its values."""

    file: Path
    dtype: str
    shape: tuple[int, ...]
    start: int
    end: int


def read_config(folder: Path) -> dict[str, Any]:
    """config.json of `folder`.

    Raises:
        ArtifactError: there is none, or it is none; says what the folder is where that can be seen.
    """
    file = folder / CONFIG
    if (folder / ADAPTER).is_file():
        base = read_json(folder / ADAPTER).get("base_model_name_or_path") or "its base model"
        raise ArtifactError(
            "this is a LoRA adapter, no model: transformers would load another folder's weights in its place",
            where=str(folder),
            next=f"raylm merge {folder} {base} FOLDER, then name that folder; a train stage's own checkpoint has its adapter "
            "folded in",
        )
    if not folder.is_dir():
        raise ArtifactError("there is no such folder", where=str(folder), next=f"name a folder with {CONFIG} and {WHOLE}")
    if not file.is_file():
        raise ArtifactError(
            f"no model could be loaded: there is no {CONFIG} here",
            where=str(folder),
            next=f"name a folder with {CONFIG} and *.safetensors, or a hub model you have access to",
        )
    return read_json(file)


def read_headers(folder: Path) -> dict[str, Stored]:
    """All tensors that transformers would read from `folder`, by stored name.

    Raises:
        ArtifactError: a file is missing, cut off, a pointer to another place, or no safetensors file.
    """
    if (folder / WHOLE).is_file():
        if (folder / INDEX).is_file() and WHOLE not in (read_json(folder / INDEX).get("weight_map") or {}).values():
            raise ArtifactError(
                f"there are two sets of weights, {WHOLE} and those that {INDEX} names: transformers reads one, vLLM the other",
                where=str(folder),
                next="remove one of them",
            )
        return read_header(folder / WHOLE)
    if not (folder / INDEX).is_file():
        raise _no_weights(folder)
    places: dict[str, str] = read_json(folder / INDEX).get("weight_map") or {}
    shards = sorted(set(places.values()))
    if lost := [name for name in shards if not (folder / name).is_file()]:
        raise ArtifactError(
            f"{len(lost)} of {len(shards)} files that {INDEX} names are missing: {named(lost)}", where=str(folder), next=_AGAIN
        )
    found: dict[str, Stored] = {}
    for name in shards:
        found |= read_header(folder / name)
    if lost := sorted(places.keys() - found.keys()):
        raise ArtifactError(f"{INDEX} names tensors that no file holds: {named(lost)}", where=str(folder), next=_AGAIN)
    return found


def read_json(file: Path) -> dict[str, Any]:
    """The table in a JSON file. Raises ArtifactError when it holds none."""
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
    except ValueError as cause:
        raise ArtifactError(f"{file.name} is no JSON: {cause}", where=str(file.parent), next=_AGAIN) from cause
    if not isinstance(found, dict):
        raise ArtifactError(f"{file.name} holds no table", where=str(file.parent), next=_AGAIN)
    return found


def usual_dtype(tensors: dict[str, Stored]) -> str | None:
    """The dtype of most values, as safetensors spells it; None without tensors."""
    sizes: Counter[str] = Counter()
    for tensor in tensors.values():
        sizes[tensor.dtype] += tensor.end - tensor.start
    return sizes.most_common(1)[0][0] if sizes else None


def named(names: list[str], shown: int = 3) -> str:
    """The first few names, and how many more there are."""
    return ", ".join(names[:shown]) + (f" and {len(names) - shown} more" if len(names) > shown else "")


def same_values(one: Stored, other: Stored) -> bool:
    """Whether two tensors hold the same bytes; read a piece at a time, up to the first difference."""
    if (one.dtype, one.shape) != (other.dtype, other.shape):
        return False
    with open(one.file, "rb") as left, open(other.file, "rb") as right:
        left.seek(one.start)
        right.seek(other.start)
        rest = one.end - one.start
        while rest:
            size = min(rest, 1 << 22)
            if left.read(size) != right.read(size):
                return False
            rest -= size
    return True


def read_header(file: Path) -> dict[str, Stored]:
    """All tensors of one file, by name. Raises ArtifactError where it is cut off, a pointer, or no safetensors file."""
    size = file.stat().st_size
    with open(file, "rb") as opened:
        first = opened.read(8)
        if first + opened.read(len(_POINTER) - 8) == _POINTER:
            raise ArtifactError(
                f"{file.name} is a Git LFS pointer, the weights were never fetched", where=str(file.parent), next="git lfs pull"
            )
        length = int.from_bytes(first, "little")
        opened.seek(8)
        text = opened.read(length) if 8 + length <= size else b""
    if len(first) < 8 or 8 + length > size:
        # a header's length is some millions at most: what says more is no header at all
        said = f"cut off after {size:,} bytes" if len(first) < 8 or length < 1 << 30 else "no safetensors file"
        raise ArtifactError(f"{file.name} is {said}", where=str(file.parent), next=_AGAIN)
    try:
        described = json.loads(text)
        begin = 8 + length
        tensors = {
            name: Stored(file, tensor["dtype"], tuple(tensor["shape"]), *(begin + at for at in tensor["data_offsets"]))
            for name, tensor in described.items()
            if name != "__metadata__"
        }
    except (ValueError, KeyError, TypeError, AttributeError) as cause:
        raise ArtifactError(f"{file.name} has no readable header", where=str(file.parent), next=_AGAIN) from cause
    end = max((tensor.end for tensor in tensors.values()), default=begin)
    if end > size:
        raise ArtifactError(f"{file.name} is cut off: {size:,} of {end:,} bytes are there", where=str(file.parent), next=_AGAIN)
    if end < size:
        raise ArtifactError(f"{file.name} is {size:,} bytes, its header describes {end:,}", where=str(file.parent), next=_AGAIN)
    return tensors


def _no_weights(folder: Path) -> ArtifactError:
    """Why there are no weights in `folder`, by what lies there instead."""
    where = str(folder)
    found = sorted(path.name for path in folder.iterdir() if path.is_file())
    if other := [name for name in found if name.endswith(".safetensors")]:
        return ArtifactError(
            f"there is neither {WHOLE} nor {INDEX}; {named(other)} is not read", where=where, next=f"name it {WHOLE}"
        )
    if pickled := [name for name in found if name.endswith((".bin", ".pt", ".pth", ".ckpt", ".h5", ".msgpack"))]:
        return ArtifactError(
            f"weights are pickled or of another framework ({named(pickled)}); they are not read, since that may run code",
            where=where,
            next="convert them where you trust them: AutoModelForCausalLM.from_pretrained(FOLDER).save_pretrained(NEW_FOLDER)",
        )
    if gguf := [name for name in found if name.endswith(".gguf")]:
        return ArtifactError(f"{named(gguf)} is a GGUF file", where=where, next="name the safetensors it was made from")
    return ArtifactError(f"no model could be loaded: there is no {WHOLE} here", where=where, next=_AGAIN)
