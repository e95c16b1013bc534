"""The decoder blocks of a model: what the model hands to each of them, and what enters their linear layers."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

# by what part of a channel of hidden states a walk over the blocks may differ from the model's own forward
SAME = 1e-3


class Statistics(NamedTuple):
    """What entered one linear layer, over all calibration tokens; I is its input width."""

    num_tokens: int
    gram_II: torch.Tensor
    """X^T X, float32: twice the Hessian of the squared output error, up to the factor."""
    absmax_I: torch.Tensor
    """Largest magnitude of each input."""

    @property
    def norms_I(self) -> torch.Tensor:
        """Root of the sum of squares of each input."""
        return self.gram_II.diagonal().clamp(min=0).sqrt()

    def check(self, name: str) -> None:
        """Raises DataError when what entered layer `name` is not all finite."""
        if not bool(self.gram_II.isfinite().all()):
            raise DataError(
                f"on the calibration rows, the activations that enter {name} are not all finite",
                next="take other rows, or a method that needs none",
            )


class Block:
    """One decoder block, with what enters it."""

    def __init__(self, index: int, name: str, module: Any, hidden: list[torch.Tensor], calls: list[Any]) -> None:
        self.index, self.name, self.module = index, name, module
        self.hidden = hidden
        """Hidden states [rows, tokens, width] of each micro-batch."""
        self._calls = calls

    @property
    def layers(self) -> dict[str, Any]:
        """Its linear layers (and Conv1D), by their names in the model."""
        found = {name: module for name, module in self.module.named_modules() if is_linear(name, module)}
        return {f"{self.name}.{name}": module for name, module in found.items()}

    def run(self, at: int, hidden: torch.Tensor | None = None) -> torch.Tensor:
        """What the block gives for micro-batch `at`, or for other hidden states in its place: masks and positions are those
        that the model passes on."""
        args, kwargs = self._calls[at]
        given = self.module(self.hidden[at] if hidden is None else hidden, *args, **kwargs)
        return given[0] if isinstance(given, tuple) else given

    def statistics(self, hidden: list[torch.Tensor] | None = None, only: set[str] | None = None) -> dict[str, Statistics]:
        """What enters each of its linear layers, as the block is now. Layers that no token came to are absent.

        Args:
            hidden: hidden states in place of those that enter it.
            only: names of layers; all where it is None.
        """
        import torch

        found: dict[str, list[Any]] = {}

        def note(name: str, x: torch.Tensor) -> None:
            x_NI = x.reshape(-1, x.shape[-1]).float()
            if not len(x_NI):
                return
            gram, most = x_NI.T @ x_NI, x_NI.abs().amax(0)
            if name not in found:
                found[name] = [len(x_NI), gram, most]
            else:
                found[name][0] += len(x_NI)
                found[name][1] += gram
                found[name][2] = torch.maximum(found[name][2], most)

        self.inputs(note, hidden, only)
        return {name: Statistics(*each) for name, each in found.items()}

    def inputs(
        self, note: Callable[[str, torch.Tensor], None], hidden: list[torch.Tensor] | None = None, only: set[str] | None = None
    ) -> None:
        """Run all micro-batches; `note(name, x)` is called with what enters each linear layer, [..., I]."""
        import torch

        hooks = [
            layer.register_forward_pre_hook(lambda _, args, name=name: note(name, args[0].detach()))
            for name, layer in self.layers.items()
            if only is None or name in only
        ]
        try:
            with torch.no_grad():
                for at in range(len(self.hidden)):
                    self.run(at, None if hidden is None else hidden[at])
        finally:
            for hook in hooks:
                hook.remove()


def texts(model: Any, ids: torch.Tensor) -> dict[str, Any]:
    """Arguments of `model` for token ids [rows, tokens]."""
    whole = getattr(model.config, "is_encoder_decoder", False)
    return {"input_ids": ids, "use_cache": False, **({"decoder_input_ids": ids} if whole else {})}


def is_linear(_: str, module: Any) -> bool:
    """Whether a module is a linear layer, or GPT-2's transposed one (Conv1D)."""
    import torch
    from transformers.pytorch_utils import Conv1D

    return isinstance(module, (torch.nn.Linear, Conv1D))


def decoder_blocks(model: Any) -> tuple[str, Any]:
    """Name and ModuleList of the decoder's blocks. Raises ConfigError where there is an encoder beside it, or no such list."""
    import torch

    if getattr(model.config, "is_encoder_decoder", False):
        raise ConfigError("an encoder beside a decoder is no chain of blocks", next='take a method without them: {kind = "int8"}')
    lists = [(name, each) for name, each in model.named_modules() if isinstance(each, torch.nn.ModuleList) and len(each)]
    outer = [(name, each) for name, each in lists if not any(name.startswith(f"{other}.") for other, _ in lists)]
    if not outer:
        raise ConfigError(f"a model of type {model.config.model_type} has no list of blocks")
    decoder: Any = model.get_decoder() if hasattr(model, "get_decoder") else None
    inside = {id(each) for each in decoder.modules()} if decoder is not None else set()
    mine = [pair for pair in outer if id(pair[1]) in inside] or outer
    return max(mine, key=lambda pair: sum(p.numel() for p in pair[1].parameters()))


def record(model: Any, blocks: Any, ids: list[torch.Tensor]) -> tuple[list[torch.Tensor], list[list[Any]]]:
    """Hidden states that enter the first block, and the other arguments that the model hands to each block, by micro-batch."""
    import torch

    entering: list[torch.Tensor] = []
    calls: list[list[Any]] = []

    def note(index: int) -> Any:
        def hook(_: Any, args: Any, kwargs: Any) -> None:
            others = dict(kwargs)
            hidden, rest = (args[0], args[1:]) if args else (others.pop("hidden_states"), ())
            if index == 0:
                entering.append(hidden.detach())
            calls[-1].append((rest, others))

        return hook

    hooks = [block.register_forward_pre_hook(note(index), with_kwargs=True) for index, block in enumerate(blocks)]
    try:
        with torch.no_grad():
            for each in ids:
                calls.append([])
                model(**texts(model, each))
                if len(calls[-1]) != len(blocks):
                    family = model.config.model_type
                    raise ConfigError(f"a text runs {len(calls[-1])} of {len(blocks)} blocks of {family}: they are no chain")
    finally:
        for hook in hooks:
            hook.remove()
    return entering, calls


def check_chain(model: Any, blocks: Any, ids: list[torch.Tensor], entering: list[Any], calls: list[list[Any]]) -> None:
    """Raises ConfigError where walking the blocks gives other hidden states than the model's own forward."""
    import torch

    seen: list[Any] = []
    hook = blocks[-1].register_forward_hook(lambda _, __, given: seen.append(given[0] if isinstance(given, tuple) else given))
    row = ids[0]
    try:
        with torch.no_grad():
            model(**texts(model, row))
    finally:
        hook.remove()
    hidden = entering[0]
    with torch.no_grad():
        for block, (args, kwargs) in zip(blocks, calls[0], strict=True):
            given = block(hidden, *args, **kwargs)
            hidden = given[0] if isinstance(given, tuple) else given
    # channel by channel: single ones hold numbers a thousand times as large as the rest, beside which a fault would not count
    whole = seen[0].float().flatten(0, -2)
    sizes = whole.norm(dim=0)
    allowed = SAME * sizes.clamp(min=1e-3 * float(sizes.median()))
    away = (hidden.float().flatten(0, -2) - whole).norm(dim=0)
    if bool(whole.isfinite().all()) and not bool((away <= allowed).all()):
        apart = float((away / sizes.clamp(min=1e-30)).max())
        raise ConfigError(f"the blocks of {model.config.model_type} are no chain: states pass by them ({apart:.2g} apart)")
