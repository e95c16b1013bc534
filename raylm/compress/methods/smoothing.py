"""Moves size between the inputs of linear layers and their weights without changing what the model computes.

The inputs are divided by a scale in the norm or linear layer before, the weights are multiplied by it (SmoothQuant,
https://arxiv.org/abs/2211.10438; AWQ, https://arxiv.org/abs/2306.00978).
"""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

if TYPE_CHECKING:
    import torch

    from raylm.compress.blocks import Block

# linear layers whose outputs reach others channel by channel: nothing but products and sums of channels lies between
BEHIND = {"v_proj": "o_proj", "up_proj": "down_proj"}
# by what part of what a block adds to a channel a folded scale may change it, by the bytes of a number
SAME = {4: 1e-3, 2: 3e-2}


class Pair(NamedTuple):
    """Layers that read the same inputs, and the module that gives these."""

    source: Any
    layers: list[str]
    repeats: int = 1
    """Query heads that read one head of keys and values: as many input channels each output of the source reaches."""
    head_size: int = 0


def pairs(block: Block) -> list[Pair]:
    """What can be smoothed in a block: linear layers behind one norm, and those of `BEHIND`."""
    found = [Pair(norm, names) for norm, names in _behind_norms(block)]
    layers = block.layers
    for name, layer in layers.items():
        parent, _, own = name.rpartition(".")
        behind = f"{parent}.{BEHIND.get(own, '')}"
        if behind not in layers:
            continue
        repeats, rest = divmod(layers[behind].in_features, layer.out_features)
        size = getattr(block.module.get_submodule(parent.removeprefix(f"{block.name}.")), "head_dim", 0)
        if repeats and not rest and (size or repeats == 1):
            found.append(Pair(layer, [behind], repeats, size))
    return found


def _behind_norms(block: Block) -> Iterator[tuple[Any, list[str]]]:
    """Norms of the block with the names of the linear layers that read what they give, by one run."""
    import torch

    given: dict[int, tuple[Any, torch.Tensor]] = {}
    readers: dict[int, list[str]] = {}
    names = {id(layer): name for name, layer in block.layers.items()}

    def left(module: Any, _: Any, output: Any) -> None:
        # held, so that no other tensor gets its address
        given[id(module)] = (module, output)

    def enters(module: Any, args: Any) -> None:
        for norm, (_, output) in given.items():
            if args and args[0] is output:
                readers.setdefault(norm, []).append(names[id(module)])

    norms = [m for m in block.module.modules() if "norm" in type(m).__name__.lower() and getattr(m, "weight", None) is not None]
    hooks = [norm.register_forward_hook(left) for norm in norms]
    hooks += [layer.register_forward_pre_hook(enters) for layer in block.layers.values()]
    try:
        with torch.no_grad():
            block.run(0)
    finally:
        for hook in hooks:
            hook.remove()
    yield from ((given[norm][0], found) for norm, found in readers.items())


def smooth(block: Block, pair: Pair, scale_I: torch.Tensor) -> bool:
    """Divide the inputs of the pair's layers by `scale_I` in its source, and multiply their weights by it. False, and nothing
    changed, where the block would give something else then: the source is of a kind that is not known, or more reads it."""
    import torch

    layers = [block.layers[name] for name in pair.layers]
    parts = [pair.source, *layers]
    before = [{name: p.data.clone() for name, p in part.named_parameters(recurse=False)} for part in parts]
    with torch.no_grad():
        wanted = block.run(0)
        # (1 + weight) * x is how Gemma's norms compute
        for one in (0.0, 1.0):
            _divide(pair, scale_I, one)
            for layer in layers:
                layer.weight.data = (layer.weight.data.float() * scale_I).to(layer.weight.dtype)
            if _same(block.run(0), wanted, block.hidden[0]):
                return True
            for part, kept in zip(parts, before, strict=True):
                for name, p in part.named_parameters(recurse=False):
                    p.data.copy_(kept[name])
            if isinstance(pair.source, torch.nn.Linear):
                break
    return False


def _same(found: torch.Tensor, wanted: torch.Tensor, entered: torch.Tensor) -> bool:
    """Whether a block gives the same for what entered it, in the middle one of its channels: single ones hold numbers a thousand
    times as large as the rest, beside which any other difference is small."""
    import torch

    def size(states: torch.Tensor) -> torch.Tensor:
        return states.flatten(0, -2).norm(dim=0)

    whole = wanted.float()
    rounding = torch.finfo(wanted.dtype).eps * size(whole)
    allowed = SAME[wanted.dtype.itemsize] * size(whole - entered.float()) + rounding
    return bool((size(found.float() - whole) / allowed.clamp(min=1e-30)).median() <= 1)


def _divide(pair: Pair, scale_I: torch.Tensor, one: float) -> None:
    import torch

    weight = pair.source.weight
    if isinstance(pair.source, torch.nn.Linear):
        scale = scale_I if pair.repeats == 1 else scale_I.view(-1, pair.repeats, pair.head_size)[:, 0].reshape(-1)
        weight.data = (weight.data.float() / scale[:, None]).to(weight.dtype)
        if pair.source.bias is not None:
            pair.source.bias.data = (pair.source.bias.data.float() / scale).to(weight.dtype)
        return
    weight.data = ((weight.data.float() + one) / scale_I - one).to(weight.dtype)
    if getattr(pair.source, "bias", None) is not None:
        pair.source.bias.data = (pair.source.bias.data.float() / scale_I).to(weight.dtype)


def even(pair: Pair, scale_I: torch.Tensor) -> torch.Tensor:
    """The scale with one value for all input channels that an output of the source reaches: the geometric mean over the heads
    that read it."""
    if pair.repeats == 1:
        return scale_I
    heads = scale_I.log().view(-1, pair.repeats, pair.head_size)
    return heads.mean(1, keepdim=True).expand_as(heads).exp().reshape(-1)
