"""Megatron's classic checkpoint format, one torch file per rank: written from a model's tensors, and read.

release/mp_rank_TT[_PPP][_EEE]/model_optim_rng.pt + latest_checkpointed_iteration.txt, as get_checkpoint_name of
https://github.com/NVIDIA/Megatron-LM/blob/main/megatron/training/checkpointing.py names them. `release` and not an iteration:
Megatron takes a checkpoint without optimizer so, and refuses iteration 0.
"""

from __future__ import annotations

import pickle
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder
from raylm.model.megatron.parts import Part, cut, parts_of, split, uncut
from raylm.model.megatron.shape import Layout, Shape

if TYPE_CHECKING:
    import torch

FILE = "model_optim_rng.pt"
TRACKER = "latest_checkpointed_iteration.txt"
# linear layers that Transformer Engine gives a place for float8 scales
SCALED = re.compile(r"linear_(qkv|proj|fc1|fc2)\.weight$")
BLOCK = "decoder.layers."


class Inert:
    """Stands for any class that a foreign checkpoint names beside its tensors: takes all, does nothing."""

    def __init__(self, *given: Any) -> None:
        self.given = given

    def __setstate__(self, state: Any) -> None:
        self.__dict__.update(state if isinstance(state, dict) else {"state": state})


def rank_folder(layout: Layout, tensor: int, pipeline: int, expert: int) -> str:
    """Name of a rank's folder; dimensions of one rank are left out."""
    stage = f"_{pipeline:03d}" if layout.pipeline > 1 else ""
    return f"mp_rank_{tensor:02d}{stage}" + (f"_{expert:03d}" if layout.expert > 1 else "")


def chunks(shape: Shape, layout: Layout, stage: int) -> list[range]:
    """Blocks of each model chunk of a pipeline rank; with virtual stages the ranks take turns."""
    each = shape.layers // (layout.pipeline * layout.virtual)
    starts = [(turn * layout.pipeline + stage) * each for turn in range(layout.virtual)]
    return [range(start, start + each) for start in starts]


def write_classic(
    out: Folder, shape: Shape, layout: Layout, args: Any, read: Callable[[Part], torch.Tensor], say: Callable[[str], None]
) -> None:
    """Write one file for each rank; the tensors of one file are held at a time.

    Args:
        args: the arguments that Megatron finds in each file.
        read: the whole tensor of a part.
    """
    import torch

    for stage in range(layout.pipeline):
        for expert in range(layout.expert):
            for rank in range(layout.tensor):
                models = _models(shape, layout, (rank, stage, expert), read)
                named = {"model": models[0]} if len(models) == 1 else {f"model{at}": one for at, one in enumerate(models)}
                name = f"release/{rank_folder(layout, rank, stage, expert)}/{FILE}"
                # torch takes no file name that begins with a dot
                with out.writing(name) as path, open(path, "wb") as file:
                    torch.save({"args": args, "checkpoint_version": 3.0, "iteration": 0, **named}, file)
                say(name)
    out.write(TRACKER, "release")


def _models(
    shape: Shape, layout: Layout, place: tuple[int, int, int], read: Callable[[Part], torch.Tensor]
) -> list[dict[str, Any]]:
    """State of each model chunk of the rank at `place` (tensor, pipeline, expert)."""
    rank, stage, expert = place
    own = chunks(shape, layout, stage)
    models: list[dict[str, Any]] = [{} for _ in own]
    each = max(shape.experts // layout.expert, 1)

    def put(chunk: int, name: str, part: Part) -> None:
        models[chunk][name] = cut(part, read(part), layout.tensor, rank, layout.padded(shape.vocab))
        if layout.spec == "te" and SCALED.search(name):
            models[chunk][name.removesuffix("weight") + "_extra_state"] = None

    parts = parts_of(shape)
    for part in parts:
        spelled = part.names[layout.spec == "local"]
        if part.layer is None:
            if spelled.startswith("embedding"):
                at = 0 if stage == 0 else None
            else:
                at = len(own) - 1 if stage == layout.pipeline - 1 else None
            if at is not None:
                put(at, spelled, part)
            continue
        for chunk, blocks in enumerate(own):
            if part.layer in blocks and (part.expert is None or part.expert // each == expert):
                inner = "" if part.expert is None else f"mlp.experts.local_experts.{part.expert % each}."
                put(chunk, f"{BLOCK}{part.layer - blocks.start}.{inner}{spelled}", part)
    if shape.tied and layout.pipeline > 1 and stage == layout.pipeline - 1:
        # the last stage keeps its own copy of the embedding
        put(len(own) - 1, "output_layer.weight", parts[0])
    return models


class Classic:
    """A classic checkpoint, open for reading: files are mapped into memory, so that only what is read is loaded."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        found = sorted(one.name for one in folder.glob("mp_rank_*") if (one / FILE).is_file())
        if not found:
            raise ArtifactError(f"no mp_rank_*/{FILE} here", where=str(folder), next="name Megatron's --save folder")
        self._files: dict[str, dict[str, Any]] = {}
        self._used: dict[tuple[str, str], set[str]] = {}
        args = vars(self._file(found[0]).get("args") or Inert())
        if "tensor_model_parallel_size" not in args:
            raise ArtifactError("the files do not say how they are sharded: no args in them", where=str(folder / found[0] / FILE))
        self.layout = Layout(
            tensor=args["tensor_model_parallel_size"],
            pipeline=args.get("pipeline_model_parallel_size") or 1,
            virtual=args.get("virtual_pipeline_model_parallel_size") or 1,
            expert=args.get("expert_model_parallel_size") or 1,
        )
        wanted = self.layout.tensor * self.layout.pipeline * self.layout.expert
        if len(found) != wanted:
            raise ArtifactError(f"{len(found)} ranks' files, the checkpoint was sharded for {wanted}", where=str(folder))
        if args.get("expert_tensor_parallel_size") not in (None, self.layout.tensor):
            raise ArtifactError("experts sharded over other tensor ranks than the rest cannot be read", where=str(folder))

    def weights(self, shape: Shape) -> Iterator[tuple[str, torch.Tensor]]:
        """Tensors by Hugging Face's names, block after block. Raises ArtifactError when one is missing or has no place."""
        places = self._places(shape)
        each = max(shape.experts // self.layout.expert, 1)
        for part in parts_of(shape):
            if part.layer is None:
                ends = (0, 0) if part.names[0].startswith("embedding") else (self.layout.pipeline - 1, self.layout.virtual - 1)
                place, names, expert = ends, part.names, 0
            else:
                stage, turn, local = places[part.layer]
                place, expert = (stage, turn), (part.expert or 0) // each
                names = [f"{BLOCK}{local}.{name}" for name in _spellings(part, each)]
            pieces = [self._take(rank, place, expert, names) for rank in range(self.layout.tensor)]
            for ahead in range(self.layout.expert if part.expert is None else 0):
                # other expert ranks hold copies of what is no expert
                self._mark(ahead, place, names)
            yield from split(part, uncut(part, pieces), shape).items()
        if shape.tied:
            for ahead in range(self.layout.expert):
                self._mark(ahead, (self.layout.pipeline - 1, self.layout.virtual - 1), ["output_layer.weight"])
        self._refuse_unread()

    def _file(self, name: str) -> dict[str, Any]:
        """The mapped content of one rank's file. No code of the file is run: what is no tensor becomes `Inert`."""
        import argparse

        import torch
        from torch.serialization import get_unsafe_globals_in_checkpoint, safe_globals

        if name not in self._files:
            path = self._folder / name / FILE
            foreign = get_unsafe_globals_in_checkpoint(str(path))
            known: list[Any] = [(argparse.Namespace if one == "argparse.Namespace" else Inert, one) for one in foreign]
            try:
                with safe_globals(known):
                    self._files[name] = torch.load(path, map_location="cpu", mmap=True, weights_only=True)
            except pickle.UnpicklingError as cause:
                raise ArtifactError("the file cannot be read without running code that it names", where=str(path)) from cause
        return self._files[name]

    def _model(self, rank: int, place: tuple[int, int], expert: int) -> tuple[tuple[str, str], dict[str, Any]]:
        name, key = rank_folder(self.layout, rank, place[0], expert), "model" if self.layout.virtual == 1 else f"model{place[1]}"
        found = self._file(name)
        if key not in found:
            raise ArtifactError(f"no {key!r} in this file", where=str(self._folder / name / FILE))
        return (name, key), found[key]

    def _take(self, rank: int, place: tuple[int, int], expert: int, names: Any) -> torch.Tensor:
        at, model = self._model(rank, place, expert)
        for name in names:
            if name in model:
                self._used.setdefault(at, set()).add(name)
                return model[name]
        raise ArtifactError(f"no tensor {' or '.join(names)}", where=str(self._folder / at[0] / FILE))

    def _mark(self, expert: int, place: tuple[int, int], names: Any) -> None:
        for rank in range(self.layout.tensor):
            at, _ = self._model(rank, place, expert)
            self._used.setdefault(at, set()).update(names)

    def _places(self, shape: Shape) -> list[tuple[int, int, int]]:
        """Pipeline rank, model chunk and number there of each block; stages may differ in length."""
        found = []
        for turn in range(self.layout.virtual):
            for stage in range(self.layout.pipeline):
                _, model = self._model(0, (stage, turn), 0)
                count = len({name.split(".")[2] for name in model if name.startswith(BLOCK)})
                found += [(stage, turn, local) for local in range(count)]
        if len(found) != shape.layers:
            raise ArtifactError(f"{len(found)} blocks here, {shape.layers} in the config", where=str(self._folder))
        return found

    def _refuse_unread(self) -> None:
        import torch

        for name, content in self._files.items():
            for key in [key for key in content if re.fullmatch(r"model\d*", key)]:
                tensors = {each for each, value in content[key].items() if isinstance(value, torch.Tensor)}
                left = {one for one in tensors - self._used.get((name, key), set()) if not one.endswith("_extra_state")}
                if left:
                    raise ArtifactError(
                        f"tensors that have no place in the config's model: {', '.join(sorted(left)[:4])}",
                        where=str(self._folder / name / FILE),
                        next="name the model's own config with --like",
                    )


def _spellings(part: Part, each: int) -> tuple[str, ...]:
    """Names of a part inside a block: by either spec, experts one by one or grouped."""
    if part.expert is None:
        return part.names
    local = part.expert % each
    return (f"mlp.experts.local_experts.{local}.{part.names[0]}", f"mlp.experts.{part.names[0]}{local}")
