"""The licence of a checkpoint: what stands beside it or beside the model that it was trained from. None is made up."""

from __future__ import annotations

import re
from pathlib import Path
from typing import NamedTuple

from raylm.core.errors import ConfigError
from raylm.core.storage import Folder

_HEAD = re.compile(r"\A---\n(.*?)\n---", re.DOTALL)
_LINE = re.compile(r"^license: *(\S.*?) *$", re.MULTILINE)
TEXTS = ("LICENSE", "LICENSE.txt", "LICENSE.md", "LICENCE", "COPYING")


class Licence(NamedTuple):
    """What is known."""

    key: str | None = None
    """The hub's key: apache-2.0."""
    text: str | None = None
    """All of it, where a file says it."""
    of: str = ""
    """Where it was found."""

    def texts(self) -> list[str]:
        """The text, else the key; [] where nothing is known."""
        return [said] if (said := self.text or self.key) else []


def licence_of(folder: Path, named: str | None = None) -> Licence:
    """The licence of the checkpoint in the local `folder`: of a model card or a licence file beside it, else of the weights that
    its manifest says it was trained from, else the one that is `named`.

    Raises:
        ConfigError: another one is named than the one that stands there.
    """
    found = _beside(folder)
    if named and found.key and named.lower() != found.key.lower():
        raise ConfigError(
            f"the weights are under {found.key}, not under {named}", where=found.of, next=f"say {found.key}, or leave it out"
        )
    # a text without a key: its owner says which it is
    return found._replace(key=found.key or named)


def _beside(folder: Path, depth: int = 0) -> Licence:
    from raylm.core.artifact import MANIFEST, Checkpoint, open_artifact

    card = folder / "README.md"
    head = _HEAD.match(card.read_text(errors="replace")) if card.is_file() else None
    key = _LINE.search(head.group(1)) if head else None
    file = next((folder / name for name in TEXTS if (folder / name).is_file()), None)
    if key or file:
        named = key.group(1).strip("'\"") if key else None
        return Licence(named, file.read_text(errors="replace") if file else None, str(file if not key else card))
    if depth > 20 or not (folder / MANIFEST).is_file():
        return Licence()
    inputs = open_artifact(Folder(folder)).manifest.inputs
    # teachers, judges and reward models give no weights
    for entry in [entry for entry in inputs if entry.name == "model"] or inputs:
        start = Path(entry.uri)
        if entry.kind == Checkpoint.kind and "://" not in entry.uri and start.is_dir():
            found = _beside(start, depth + 1)
            if found.key or found.text:
                return found
    return Licence()
