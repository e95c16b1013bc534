"""Megatron's distributed checkpoint format (`torch_dist`), which loads at any layout: written, and read.

release/{*.distcp, .metadata, common.pt, metadata.json}: tensors by torch.distributed.checkpoint under the names of
megatron-core's `sharded_state_dict` (https://github.com/NVIDIA/Megatron-LM, megatron/core/dist_checkpointing). Blocks that
are all alike lie on a first dimension of one tensor, experts on the second; others have their number in the name.
"""

from __future__ import annotations

import pickle
from collections.abc import Callable, Iterator
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch.distributed.checkpoint.default_planner import create_default_global_save_plan
from torch.distributed.checkpoint.filesystem import FileSystemReader, FileSystemWriter
from torch.distributed.checkpoint.metadata import ChunkStorageMetadata, MetadataIndex, TensorProperties
from torch.distributed.checkpoint.planner import (
    LoadPlan,
    LoadPlanner,
    SavePlan,
    SavePlanner,
    TensorWriteData,
    WriteItem,
    WriteItemType,
)
from torch.distributed.checkpoint.planner_helpers import create_read_items_for_chunk_list
from torch.distributed.checkpoint.state_dict_loader import load
from torch.distributed.checkpoint.state_dict_saver import save

from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.model.megatron.classic import BLOCK, TRACKER, Inert
from raylm.model.megatron.parts import SECOND_NORM, Part, cut, parts_of, split
from raylm.model.megatron.shape import Layout, Shape

if TYPE_CHECKING:
    from torch.distributed.checkpoint.metadata import Metadata

BACKENDS = {"sharded_backend": "torch_dist", "sharded_backend_version": 1, "common_backend": "torch", "common_backend_version": 1}


class Place(NamedTuple):
    """Where a part lies: name of the stored tensor, place on its first dimensions and their lengths."""

    name: str
    at: tuple[int, ...]
    of: tuple[int, ...]


def place_of(part: Part, shape: Shape, spec: str, stacked: bool) -> Place:
    """The stored tensor of a part. Norms have the name of a fused layer, under the local spec in sparse blocks too."""
    inner = SECOND_NORM[0] if spec == "local" and part.names[1] == SECOND_NORM[1] else part.names[0]
    if part.layer is None:
        return Place(inner, (), ())
    at, of = (part.layer,) if stacked else (), (shape.layers,) if stacked else ()
    if part.expert is not None:
        inner, at, of = f"mlp.experts.experts.{inner}", (*at, part.expert), (*of, shape.experts)
    return Place(f"{BLOCK}{inner}" if stacked else f"{BLOCK}{part.layer}.{inner}", at, of)


def write_distributed(
    out: Folder, shape: Shape, layout: Layout, args: Any, read: Callable[[Part], torch.Tensor], say: Callable[[str], None]
) -> None:
    """Write the folder; one tensor is held at a time. `out` is on a disk."""
    release = (out / "release").make()
    stacked = len(set(shape.sparse)) == 1
    padded = layout.padded(shape.vocab)
    places = [(place_of(part, shape, layout.spec, stacked), part) for part in parts_of(shape)]
    planner = _Streamed([(place, lambda part=part: cut(part, read(part), 1, 0, padded)) for place, part in places])
    writer = FileSystemWriter(release.path(), single_file_per_rank=True, sync_files=False)
    save({}, storage_writer=writer, planner=planner, no_dist=True)
    with release.writing("common.pt") as path, open(path, "wb") as file:
        torch.save({"args": args, "checkpoint_version": 3.0, "iteration": 0}, file)
    # last: by this file Megatron knows a distributed checkpoint
    release.write_json("metadata.json", BACKENDS)
    out.write(TRACKER, "release")
    say("release")


class _Streamed(SavePlanner):
    """Writes tensors that are computed only when they are written."""

    def __init__(self, tensors: list[tuple[Place, Callable[[], torch.Tensor]]]) -> None:
        self._tensors = tensors
        self._makes: dict[tuple[str, tuple[int, ...]], tuple[Callable[[], torch.Tensor], torch.Size]] = {}

    def set_up_planner(self, state_dict: Any, storage_meta: Any = None, is_coordinator: bool = False) -> None:
        """Nothing: the tensors are known."""

    def create_local_plan(self) -> SavePlan:
        """One item for each part: what of which tensor it is."""
        items = []
        for place, make in self._tensors:
            example = make()
            offsets = torch.Size((*place.at, *(0 for _ in example.shape)))
            sizes = torch.Size((*(1 for _ in place.at), *example.shape))
            data = TensorWriteData(
                chunk=ChunkStorageMetadata(offsets=offsets, sizes=sizes),
                properties=TensorProperties(dtype=example.dtype),
                size=torch.Size((*place.of, *example.shape)),
            )
            self._makes[place.name, tuple(offsets)] = make, sizes
            items.append(WriteItem(index=MetadataIndex(place.name, offsets), type=WriteItemType.SHARD, tensor_data=data))
        return SavePlan(items)

    def create_global_plan(self, all_plans: list[SavePlan]) -> tuple[list[SavePlan], Metadata]:
        """What torch does by itself."""
        return create_default_global_save_plan(all_plans)

    def finish_plan(self, new_plan: SavePlan) -> SavePlan:
        """The plan as it is."""
        return new_plan

    def resolve_data(self, write_item: WriteItem) -> Any:
        """The tensor of an item, now."""
        make, sizes = self._makes[write_item.index.fqn, tuple(write_item.index.offset or ())]
        return make().reshape(sizes)


class Distributed:
    """A distributed checkpoint, open for reading. Its index is read without running code of it."""

    def __init__(self, folder: Path) -> None:
        self._reader = _Reader(folder)
        self._folder = folder

    def weights(self, shape: Shape) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors by Hugging Face's names, one after the other. Raises ArtifactError when one is missing or has no place."""
        known, used = self._reader.read_metadata().state_dict_metadata, set()
        for part in parts_of(shape):
            candidates = [place_of(part, shape, spec, stacked) for stacked in (True, False) for spec in ("te", "local")]
            place = next((candidate for candidate in candidates if candidate.name in known), None)
            if place is None:
                raise ArtifactError(f"no tensor {candidates[0].name} or {candidates[2].name}", where=str(self._folder))
            used.add(place.name)
            yield from split(part, self._read(place, known[place.name]), shape).items()
        tensors = {name for name, entry in known.items() if hasattr(entry, "chunks") and "_extra_state" not in name}
        # names of the model begin so; optimizer states lie beside them
        left = {name for name in tensors - used if name.split(".")[0] in ("decoder", "embedding", "output_layer")}
        if left:
            raise ArtifactError(
                f"tensors that have no place in the config's model: {', '.join(sorted(left)[:4])}",
                where=str(self._folder),
                next="name the model's own config with --like",
            )

    def _read(self, place: Place, entry: Any) -> torch.Tensor:
        if tuple(entry.size[: len(place.of)]) != place.of:
            raise ArtifactError(
                f"{place.name} is {tuple(entry.size)}, the config says {place.of} of them", where=str(self._folder)
            )
        inner = entry.size[len(place.of) :]
        tensor = torch.empty((*(1 for _ in place.at), *inner), dtype=entry.properties.dtype)
        offsets = torch.Size((*place.at, *(0 for _ in inner)))
        chunk = ChunkStorageMetadata(offsets=offsets, sizes=tensor.shape)
        planner = _Part(LoadPlan(create_read_items_for_chunk_list(place.name, entry, [chunk])), tensor)
        load({}, storage_reader=self._reader, planner=planner, no_dist=True)
        return tensor.reshape(inner)


class _Part(LoadPlanner):
    """Fills one tensor."""

    def __init__(self, plan: LoadPlan, tensor: torch.Tensor) -> None:
        self._plan, self._tensor = plan, tensor

    def set_up_planner(self, state_dict: Any, metadata: Any = None, is_coordinator: bool = False) -> None:
        """Nothing: the plan is known."""

    def create_local_plan(self) -> LoadPlan:
        """The plan as it is."""
        return self._plan

    def create_global_plan(self, global_plan: list[LoadPlan]) -> list[LoadPlan]:
        """There is one reader."""
        return global_plan

    def finish_plan(self, central_plan: LoadPlan) -> LoadPlan:
        """The plan as it is."""
        return central_plan

    def load_bytes(self, read_item: Any, value: Any) -> None:
        """No plan has bytes."""
        raise AssertionError(read_item)

    def resolve_tensor(self, read_item: Any) -> torch.Tensor:
        """The place that a stored piece is copied to."""
        into = self._tensor
        for dim, (start, length) in enumerate(zip(read_item.dest_offsets, read_item.lengths, strict=True)):
            into = into.narrow(dim, start, length)
        return into

    def commit_tensor(self, read_item: Any, tensor: torch.Tensor) -> None:
        """It is in place."""


class _Reader(FileSystemReader):
    """Reads the index, a pickle, with classes of torch's own format alone."""

    @cached_property
    def _index(self) -> Any:
        with open(self.path / ".metadata", "rb") as file:  # type: ignore[operator]
            return _Index(file).load()

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The index; read once."""
        return self._index


class _Index(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        """Classes that describe tensors and files; anything else does nothing."""
        described = ("torch.distributed.checkpoint.metadata", "torch.distributed.checkpoint.filesystem")
        known = {
            ("torch", "Size"),
            ("torch.serialization", "_get_layout"),
            ("pathlib", "PosixPath"),
            ("collections", "OrderedDict"),
            ("torch.distributed.checkpoint._extension", "ZStandard"),
        }
        if (module in described and name[0].isupper()) or (name.startswith("_") and module in described):
            return super().find_class(module, name)
        if (module, name) in known or (module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)):
            return super().find_class(module, name)
        return Inert
