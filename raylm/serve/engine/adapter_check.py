"""What must hold of a LoRA adapter before an engine is given it: its files, rank, layers, and what it was trained beside."""

from __future__ import annotations

import hashlib
import shutil
import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.artifact import MANIFEST, Checkpoint, open_artifact
from raylm.core.config import Makes
from raylm.core.errors import ConfigError, StorageError
from raylm.core.storage import Folder
from raylm.model.adapters.saved import CONFIG, WEIGHTS, adapter_file, check_base, fields_of
from raylm.model.headers import read_header, read_headers
from raylm.model.load import folder_of
from raylm.serve.served_model import checked_name

PEFT = "base_model.model."
# what peft knows beside two matrices for each layer, and the engine would leave out
NOT_SERVED = ("use_dora", "modules_to_save", "trainable_token_indices", "target_parameters")
ROUTERS = {"gate", "router"}
"""Layers of mixtures that choose experts: no adapter stands beside them."""
OTHER = "name the model that the adapter was trained beside"
PACKED = ("weight_packed", "qweight", "weight")
"""Names of a layer's matrix: of quantized ones too."""


class Base(NamedTuple):
    """The model that adapters stand beside. `at`: a folder, or a name of the hub."""

    at: str
    fingerprint: str
    max_rank: int


class Checked(NamedTuple):
    """A copy of an adapter that nobody else writes to."""

    at: Path
    digest: str
    rank: int
    lineage: dict[str, Any]


def checked(name: str, uri: str, base: Base, into: Path) -> Checked:
    """Check the adapter at `uri` and copy it into a folder of `into` that its content names.

    Args:
        name: what clients will ask for.
        uri: a folder of peft's layout, a stage that left one in `adapter/`, a URI, or a name of the hub.

    Raises:
        ConfigError: it is no adapter that this model can answer with.
        ArtifactError: its files are missing, are pickles, or cannot be read.
    """
    try:
        checked_name(name)
    except ValueError as cause:
        raise ConfigError(str(cause), where=name) from cause
    said, files = fields_of(uri), [adapter_file(uri, CONFIG), adapter_file(uri, WEIGHTS)]
    if used := [key for key in NOT_SERVED if said.get(key)]:
        raise ConfigError(
            f"this adapter uses {', '.join(used)}, which the engine would leave out",
            where=uri,
            next="raylm merge ADAPTER BASE OUT, and serve the result as a model of its own",
        )
    if said.get("init_lora_weights", True) is not True:
        raise ConfigError(
            f"this adapter began as {said['init_lora_weights']}: it stands beside a changed base",
            where=uri,
            next="raylm merge it",
        )
    rank = max(int(said.get("rank", 8)), *(int(each) for each in (said.get("rank_pattern") or {}).values()), 0)
    if rank > base.max_rank:
        raise ConfigError(
            f"this adapter has rank {rank}, the endpoint takes {base.max_rank}",
            where=uri,
            next=f"set lora.max_rank = {rank} or more",
        )
    _check_layers(files[1], uri, base)
    check_base(uri, base.at)
    lineage = _lineage(uri, base)
    try:
        at = _copied(files, into)
    except OSError as cause:
        raise StorageError(f"this adapter cannot be copied: {cause.strerror}", where=str(into), next="make room there") from cause
    digest = at.name
    return Checked(at, digest, rank, {"fingerprint": digest, "rank": rank, **lineage})


def _copied(files: list[Path], into: Path) -> Path:
    """A folder of `into` that the files' content names: whole, or not there."""
    into.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="half-", dir=into) as half:
        for file in files:
            shutil.copyfile(file, Path(half) / file.name)
        # of the copy: who writes there meanwhile changes no name
        whole = b"".join((Path(half) / file.name).read_bytes() for file in files)
        at = into / hashlib.sha256(whole).hexdigest()[:16]
        if not at.is_dir():
            Path(half).rename(at)
            Path(half).mkdir()
    return at


def modules_of(model: str) -> list[str]:
    """Last parts of the names of the linear layers in a model's blocks. Its output layer is none of them: with an adapter there
    vLLM's engine dies of the first request for log-probabilities of a prompt (0.32, `add_lora_logits`)."""
    folder = folder_of(model)
    found = read_headers(folder) if folder else {}
    layers = [name.rpartition(".") for name, stored in found.items() if len(stored.shape) == 2 or name.endswith("packed")]
    inside = {layer.rpartition(".")[2] for layer, _, end in layers if end in PACKED and _in_block(layer)}
    return sorted(inside - ROUTERS)


def _in_block(layer: str) -> bool:
    return any(part.isdigit() for part in layer.split("."))


def _check_layers(weights: Path, uri: str, base: Base) -> None:
    """Each pair of matrices stands beside one of the model, and fits it."""
    found = read_header(weights)
    if not found:
        raise ConfigError("this adapter has no weights", where=uri)
    folder = folder_of(base.at)
    theirs = read_headers(folder) if folder else {}
    for name, stored in found.items():
        layer, mark, rest = name.removeprefix(PEFT).partition(".lora_")
        if not name.startswith(PEFT) or not mark or rest not in ("A.weight", "B.weight") or not _in_block(layer):
            raise ConfigError(
                f"this adapter has a tensor that is no LoRA matrix of a layer in a block: {name}",
                where=uri,
                next="raylm merge ADAPTER BASE OUT, and serve the result as a model of its own",
            )
        if not theirs:
            continue
        matrix = next((theirs[f"{layer}.{end}"] for end in PACKED if f"{layer}.{end}" in theirs), None)
        if matrix is None:
            raise ConfigError(
                f"the model has no layer {layer}", where=uri, next="name the model that the adapter was trained beside"
            )
        side, size = (1, stored.shape[1]) if rest.startswith("A") else (0, stored.shape[0])
        if f"{layer}.weight" in theirs and len(matrix.shape) == 2 and matrix.shape[side] != size:
            raise ConfigError(
                f"the adapter does not fit {layer}: {size} beside {matrix.shape[side]}",
                where=uri,
                next=OTHER,
            )


def _lineage(uri: str, base: Base) -> dict[str, Any]:
    """Job and stage of an adapter that raylm made. Raises ConfigError where its manifest names another base."""
    folder = Folder(uri)
    if "://" not in uri and not folder.exists():
        return {"base_model": uri}
    home = next((each for each in (folder, Folder(uri.rstrip("/").rpartition("/")[0] or "/")) if each.exists(MANIFEST)), None)
    if home is None:
        return {}
    made = open_artifact(home)
    beside = [entry for entry in made.manifest.inputs if Makes(entry.kind) == Makes(Checkpoint.kind)]
    if made.fingerprint == base.fingerprint:
        raise ConfigError("the model that is served has this adapter merged into it", where=uri)
    if beside and base.fingerprint not in [entry.fingerprint for entry in beside]:
        named = " or ".join(f"{entry.name} ({entry.fingerprint})" for entry in beside)
        raise ConfigError(f"the adapter was trained beside {named}, not beside {base.fingerprint}", where=uri)
    job, _, stage = made.uri.rstrip("/").rpartition("/")
    return {"job": job.rpartition("/")[2], "stage": stage}
