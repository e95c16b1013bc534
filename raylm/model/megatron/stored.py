"""The tensors of a folder of safetensors by name, read one by one."""

from __future__ import annotations

import json
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ArtifactError

if TYPE_CHECKING:
    import torch

INDEX = "model.safetensors.index.json"
SINGLE = "model.safetensors"


class Stored:
    """Tensors of a Hugging Face checkpoint. Raises ArtifactError when there are none."""

    def __init__(self, folder: Path) -> None:
        from safetensors import safe_open

        self._folder = folder
        self._open: dict[str, Any] = {}
        if (folder / INDEX).is_file():
            self._places: dict[str, str] = json.loads((folder / INDEX).read_text())["weight_map"]
        elif (folder / SINGLE).is_file():
            with safe_open(folder / SINGLE, framework="pt") as file:
                self._places = dict.fromkeys(file.keys(), SINGLE)
        else:
            raise ArtifactError(f"no {SINGLE} and no {INDEX} here", where=str(folder), next="name a checkpoint's folder")

    def check(self, wanted: Iterable[str], ignored: Iterable[str]) -> None:
        """Raises ArtifactError when a wanted tensor is missing, or there is one that is not wanted."""
        names, wanted = set(self._places), set(wanted)
        for problem, which in (("missing", wanted - names), ("of no known place", names - wanted - set(ignored))):
            if which:
                raise ArtifactError(f"tensors {problem}: {', '.join(sorted(which)[:4])}", where=str(self._folder))

    def names(self) -> set[str]:
        """Names of all tensors."""
        return set(self._places)

    def shape(self, name: str) -> tuple[int, ...]:
        """Shape of one tensor; its values are not read."""
        return tuple(self._opened(name).get_slice(name).get_shape())

    def read(self, name: str) -> torch.Tensor:
        """One tensor, on the CPU, as it is stored."""
        return self._opened(name).get_tensor(name)

    def _opened(self, name: str) -> Any:
        from safetensors import safe_open

        file = self._places[name]
        if file not in self._open:
            self._open[file] = safe_open(self._folder / file, framework="pt").__enter__()
        return self._open[file]
