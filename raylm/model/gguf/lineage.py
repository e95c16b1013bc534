"""What a GGUF file says of where it comes from: name, licence, the model it was trained from, raylm's fingerprint."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from raylm.core.storage import Folder
from raylm.model.licence import licence_of

_HEAD = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)


def lineage(folder: Path, licence: str | None = None) -> dict[str, Any]:
    """general.* and raylm.* metadata of the checkpoint in `folder`.

    Args:
        licence: the hub's key of a licence; else the one on the model card (README.md) beside the weights.
    """
    from raylm.core.artifact import MANIFEST, open_artifact

    card = _card(folder)
    said: dict[str, Any] = {"general.type": "model", "general.name": name_of(folder)}
    if found := licence_of(folder, licence).key:
        said["general.license"] = found
    base = card.get("base_model")
    if (folder / MANIFEST).is_file():
        made = open_artifact(Folder(folder))
        base = base or made.facts.get("base_model")
        said["general.name"] = made.manifest.stage
        said |= {"raylm.fingerprint": made.fingerprint, "raylm.payload": made.content, "raylm.kind": str(made.made)}
        said["raylm.version"] = made.manifest.versions.get("raylm", "")
        inputs = [f"{entry.name} {entry.fingerprint}" for entry in made.manifest.inputs]
        said["raylm.inputs"] = inputs
    if base:
        name = str(base).rstrip("/").rsplit("/", 1)[-1]
        said |= {"general.base_model.count": 1, "general.base_model.0.name": name}
    return {key: value for key, value in said.items() if value not in ("", [], None)}


def name_of(folder: Path) -> str:
    """What the checkpoint in `folder` is called: by its folder, or of one that was fetched from a hub by its name there."""
    if folder.parent.name == "snapshots":
        return folder.parent.parent.name.rsplit("--", 1)[-1]
    return folder.name


def _card(folder: Path) -> dict[str, str]:
    """Single values of a model card's head."""
    file = folder / "README.md"
    head = _HEAD.match(file.read_text()) if file.is_file() else None
    pairs = [line.split(":", 1) for line in head.group(1).splitlines() if re.match(r"\w+: *\S", line)] if head else []
    return {key: value.strip().strip("'\"") for key, value in pairs}
