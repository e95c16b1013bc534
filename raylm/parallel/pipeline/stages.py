"""Splits a model into pipeline stages; blocks keep their Hugging Face names.

stage 0: embedding, blocks | ... | last stage: blocks, norm, head

A rank keeps one model object: blocks of other ranks are gone from its list (names of the others stay `layers.{index}`), ends
that lie elsewhere pass through what they are given. So state dicts, optimizers, adapters and wrappers need to know of no stages.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import pairwise
from typing import Any, NamedTuple

import torch

from raylm.core.errors import ConfigError
from raylm.parallel.mesh import Grid
from raylm.parallel.optimizers.clip import COPY
from raylm.parallel.pipeline.schedule import place
from raylm.parallel.tensor.plans import FAMILIES


class Stage(NamedTuple):
    """Consecutive blocks, and whether the ends of the model belong to them."""

    index: int
    blocks: range
    first: bool
    last: bool


class PipelineStages:
    """The stages of one rank, and where all others are.

    Args:
        model: the whole model; blocks and ends of other ranks are taken out of it.

    Raises:
        ConfigError: the model's family is not known here, or it has fewer blocks than stages.
    """

    def __init__(self, model: Any, grid: Grid) -> None:
        mesh, rank = grid.mesh, grid.at["pipeline"]
        core = model.get_base_model() if hasattr(model, "get_base_model") else model
        stack = _stack(core)
        self.place = place(mesh.schedule, mesh.pipeline, mesh.virtual)
        self.width: int = core.config.hidden_size
        spans = balance(len(stack.layers), len(self.place), head_in_blocks(core, stack))
        every = [Stage(i, span, i == 0, i == len(spans) - 1) for i, span in enumerate(spans)]
        self.stages = {stage.index: stage for stage in every if self.place[stage.index] == rank}
        # a reward model's has one output
        self._head_name = "lm_head" if hasattr(core, "lm_head") else "score"
        head = getattr(core, self._head_name)
        self.tied = stack.embed_tokens.weight is head.weight
        """The head's weight is the embedding's."""
        self.copied = self.tied and self.place[0] != self.place[-1]
        """First and last stage hold a copy each of a weight that is one."""
        names_by_id = {id(module): name for name, module in model.named_modules()}
        self.names = (f"{names_by_id[id(stack.embed_tokens)]}.weight", f"{names_by_id[id(head)]}.weight")
        """Of the embedding's and the head's weight."""
        self.has_first, self.has_last = 0 in self.stages, len(self.place) - 1 in self.stages
        stack.layers = self._blocks = Blocks(stack.layers, [stage.blocks for stage in self.stages.values()])
        self._ends: list[Any] = []
        if not self.has_first:
            stack.embed_tokens = torch.nn.Identity()
        if not self.has_last:
            stack.norm = torch.nn.Identity()
            setattr(core, self._head_name, Through())
        elif len(self.stages) > 1:
            self._ends = [_passing(stack.norm), _passing(head)]
            # losses make gradients of the head together with the scores, and do so once: halves begin below the head
            head.seamed = mesh.schedule == "zero_bubble"
        self._core, self._stack = core, stack
        self._across: dict[int, Any] | None = None

    def shared(self) -> Any:
        """The parameter of this rank that has a copy on another stage, or None. Call again after wrapping."""
        if not self.copied or not (self.has_first or self.has_last):
            return None
        weight = (self._stack.embed_tokens if self.has_first else self._head)._parameters["weight"]
        if self.has_last:
            # its gradient counts once in the norm, and optimizers treat it as what it is a copy of
            setattr(weight, COPY, self.names[0])
        return weight

    def seam(self) -> Any:
        """The head's input in the last pass, and the leaf that replaced it there; None where the two are one."""
        return self._head.seam if self._ends else None

    @property
    def _head(self) -> Any:
        # asked anew: wrappers replace modules
        return getattr(self._core, self._head_name)

    def select_stage(self, model: Any, stage: Stage, tokens: int) -> None:
        """Make `model` compute this stage alone from now on, over rows of `tokens`; also before a backward pass, which may
        compute again what its forward pass did not keep."""
        self._blocks.running = stage.blocks
        for end in self._ends:
            end.passing = not stage.last
        if self._across is None:
            self._across = {id(module.across): module.across for module in model.modules() if hasattr(module, "across")}
        for across in self._across.values():
            across.tokens = tokens


class Through(torch.nn.Module):
    """Replaces a head that is on another rank."""

    def forward(self, hidden_BTD: torch.Tensor) -> torch.Tensor:
        # models hand a view to their head; halves of a backward pass are detached in place, which views cannot be
        return hidden_BTD.clone()


class Blocks(torch.nn.ModuleList):
    """Blocks under their index in the whole model, of which those of the running stage compute; the others pass through."""

    def __init__(self, blocks: torch.nn.ModuleList, spans: list[range]) -> None:
        super().__init__()
        kept = {index for span in spans for index in span}
        self._modules: dict[str, Any] = {str(index): block if index in kept else None for index, block in enumerate(blocks)}
        self._spans = spans
        self.running: range | None = None
        """Before the first pass all blocks of this rank are listed, as wrappers expect."""

    def stages(self) -> list[list[Any]]:
        """The blocks of each stage of this rank."""
        return [[self._modules[str(index)] for index in span] for span in self._spans]

    def __iter__(self) -> Iterator[Any]:
        if self.running is None:
            return iter([block for block in self._modules.values() if block is not None])
        return iter([block if i in self.running else _pass for i, block in enumerate(self._modules.values())])

    def __getitem__(self, index: Any) -> Any:
        return list(self)[index]


def balance(num_blocks: int, num_stages: int, head: float) -> list[range]:
    """Consecutive blocks of each stage, so that the dearest stage is as cheap as can be.

    Args:
        head: cost of the output layer, which the last stage carries, in blocks. The embedding costs nothing to compute.

    Raises:
        ConfigError: there are fewer blocks than stages.
    """
    if num_blocks < num_stages:
        raise ConfigError(
            f"{num_blocks} blocks do not make {num_stages} stages",
            where="mesh.pipeline",
            next='lower mesh.pipeline, or take schedule = "1f1b", which has one stage per rank',
        )
    if num_stages == 1:
        return [range(num_blocks)]
    rest = num_stages - 1
    costs = {last: max(-(-(num_blocks - last) // rest), last + head) for last in range(1, num_blocks - rest + 1)}
    last = min(costs, key=lambda count: (costs[count], -count))
    # the first stages hold more activations at a time, so what is over goes to later ones
    edges = [(num_blocks - last) * stage // rest for stage in range(num_stages)]
    return [*(range(low, high) for low, high in pairwise(edges)), range(num_blocks - last, num_blocks)]


def head_in_blocks(core: Any, stack: Any) -> float:
    """FLOPs of the head as a multiple of a block's, by weights that a token passes (attention's own products left out)."""
    config = core.config.get_text_config()
    picked = getattr(config, "num_experts_per_tok", None) or 1

    def passed(module: Any) -> float:
        # stacked experts have a dimension before the matrix
        return sum(p.numel() * (picked / p.shape[0] if p.dim() == 3 else 1.0) for p in module.parameters())

    return passed(core.get_output_embeddings()) * len(stack.layers) / sum(passed(block) for block in stack.layers)


def _stack(core: Any) -> Any:
    """The model around its blocks. Other families may change what goes in or comes out of it (Granite scales embeddings), which
    every stage would do again."""
    kind = core.config.get_text_config().model_type
    if kind not in FAMILIES:
        raise ConfigError(
            f"models of type {kind!r} cannot be split into pipeline stages, only {', '.join(FAMILIES)}",
            where="mesh.pipeline",
            next="set mesh.pipeline = 1; strategy fsdp shards any model",
        )
    return core.model


def _pass(hidden_BTD: torch.Tensor, *_: Any, **__: Any) -> torch.Tensor:
    return hidden_BTD


def _passing(module: Any) -> Any:
    """`module` with a switch that makes it return its input, hooks of wrappers included."""
    kind = type(module)

    def call(self: Any, hidden_BTD: torch.Tensor) -> torch.Tensor:
        self.seam = None
        if self.passing:
            return hidden_BTD.clone()
        if self.seamed and hidden_BTD.requires_grad:
            hidden_BTD = hidden_BTD.clone()
            self.seam = hidden_BTD, hidden_BTD.detach().requires_grad_()
            hidden_BTD = self.seam[1]
        output: torch.Tensor = kind.__call__(self, hidden_BTD)
        return output

    module.__class__ = type(kind.__name__, (kind,), {"__call__": call})
    module.passing = module.seamed = False
    module.seam = None
    return module
