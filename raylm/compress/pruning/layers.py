"""Importance of whole decoder blocks on calibration rows, and a model without some of them.

L blocks; hidden states are [rows, tokens, width].
"""

from __future__ import annotations

import contextlib
import math
import re
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from raylm.compress.blocks import decoder_blocks
from raylm.compress.calibration import Calibration
from raylm.compress.pruning.rebuilt import changed_config, check_same, field_name, probe, rebuild, settings
from raylm.core.errors import ConfigError, DataError

if TYPE_CHECKING:
    import torch

# tokens whose logits are held at once
CHUNK = 1024
# lists of numbers with one entry for each block
PER_LAYER = ("no_rope_layers",)
BROKEN = "look at the stage that trained them, or load them in another dtype"


def distances(model: Any, calibration: Calibration, span: int = 1) -> list[float]:
    """1 - the mean cosine between the hidden states that enter block i and those that leave block i + `span` - 1, for each i
    where that exists: block influence (https://arxiv.org/abs/2403.03853) of one block, or what a run of blocks changes
    (https://arxiv.org/abs/2403.17887)."""
    import torch

    blocks = decoder_blocks(model)[1]
    total, count = torch.zeros(len(blocks) - span + 1, dtype=torch.float64), 0
    for ids in calibration.batches(next(model.parameters()).device):
        states = _states(model, blocks, ids)
        count += ids.numel()
        for at in range(len(total)):
            close = torch.nn.functional.cosine_similarity(states[at].float(), states[at + span].float(), dim=-1)
            total[at] += (1.0 - close).double().sum().cpu()
    if not bool(total.isfinite().all()):
        raise DataError("what the layers give is not finite on these rows", next=BROKEN)
    return (total / count).tolist()


def loss(model: Any, calibration: Calibration) -> float:
    """Mean nats per calibration token after the first of its row."""
    import torch

    total, count = 0.0, 0
    with torch.no_grad():
        for ids in calibration.batches(next(model.parameters()).device):
            # one row at a time: over a large vocabulary the logits of many are larger than the model
            for ids_T in ids:
                logits_TV = model(input_ids=ids_T[None], use_cache=False).logits[0, :-1]
                for start in range(0, len(logits_TV), CHUNK):
                    part_TV = logits_TV[start : start + CHUNK].float()
                    target_T = ids_T[1 + start : 1 + start + len(part_TV)]
                    total += float(torch.nn.functional.cross_entropy(part_TV, target_T, reduction="sum"))
                count += len(logits_TV)
    return total / max(count, 1)


def least_loss(model: Any, calibration: Calibration, num_kept: int) -> tuple[list[int], list[dict[str, float]]]:
    """Blocks that stay when again and again the one goes without which the loss is least; and the loss after each."""
    blocks = decoder_blocks(model)[1]
    kept, steps = list(range(len(blocks))), []
    while len(kept) > num_kept:
        losses = {}
        for at in kept:
            with skipping(blocks, [other for other in range(len(blocks)) if other not in kept or other == at]):
                found = loss(model, calibration)
                # one that is no number would be neither more nor less than any
                losses[at] = found if math.isfinite(found) else math.inf
        worst = min(losses, key=lambda at: losses[at])
        if math.isinf(losses[worst]):
            raise DataError("without any one of the layers the loss on these rows is not finite", next=BROKEN)
        kept.remove(worst)
        steps.append({"layer": worst, "loss": round(losses[worst], 6)})
    return kept, steps


@contextlib.contextmanager
def skipping(blocks: Any, removed: list[int]) -> Iterator[None]:
    """Let the blocks numbered so give what enters them."""

    def same(_: Any, args: Any, kwargs: Any, given: Any) -> Any:
        entered = args[0] if args else kwargs["hidden_states"]
        return (entered, *given[1:]) if isinstance(given, tuple) else entered

    hooks = [blocks[at].register_forward_hook(same, with_kwargs=True) for at in removed]
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()


def without_layers(model: Any, kept: list[int]) -> Any:
    """A model of the same class with these blocks of `model`, in their order.

    Lists of the config that have one entry for each block follow. What is made is compared with the parent that skips the
    others: each block must be set as it was, and the logits must be equal.

    Raises:
        ConfigError: a block depends on its place in another way, or the model on its blocks.
    """
    prefix, blocks = decoder_blocks(model)
    config = changed_config(model.config, **_shorter(model.config, len(blocks), kept))
    place = re.compile(rf"^{re.escape(prefix)}\.(\d+)\.")
    number = {str(old): str(new) for new, old in enumerate(kept)}
    weights = {}
    for name, tensor in model.state_dict().items():
        found = place.match(name)
        if found is None:
            weights[name] = tensor
        elif found[1] in number:
            weights[f"{prefix}.{number[found[1]]}.{name[found.end() :]}"] = tensor
    made = rebuild(model, config, weights)
    for new, old in enumerate(kept):
        if settings(decoder_blocks(made)[1][new]) != settings(blocks[old]):
            raise ConfigError(
                f"layer {old} of {model.config.model_type} would be set up otherwise as layer {new}: its config gives layers "
                "their kind by their number",
                next="keep the layers below it, or take the method width",
            )
    with skipping(blocks, [at for at in range(len(blocks)) if at not in kept]):
        meant = probe(model)
    check_same(meant, probe(made), model, "layers")
    return made


def _shorter(config: Any, num_layers: int, kept: list[int]) -> dict[str, Any]:
    """What changes in a config of `num_layers` blocks."""
    if getattr(config, "num_hidden_layers", None) != num_layers:
        raise ConfigError(f"{num_layers} blocks, but config.json counts {getattr(config, 'num_hidden_layers', 'none')}")
    own = field_name(config, "num_hidden_layers")
    lists = {name: value for name, value in config.to_dict().items() if isinstance(value, list) and len(value) == num_layers}
    # a list of block numbers, or of stop ids, may be as long by chance: it is none of one entry for each block
    per_layer = {
        name: value for name, value in lists.items() if name in PER_LAYER or not all(isinstance(each, int) for each in value)
    }
    return {own: len(kept), **{name: [value[at] for at in kept] for name, value in per_layer.items()}}


def _states(model: Any, blocks: Any, ids: torch.Tensor) -> list[torch.Tensor]:
    """What enters each block, and what leaves the last."""
    import torch

    states: list[torch.Tensor] = []

    def entering(_: Any, args: Any, kwargs: Any) -> None:
        states.append((args[0] if args else kwargs["hidden_states"]).detach())

    def leaving(_: Any, __: Any, given: Any) -> None:
        states.append((given[0] if isinstance(given, tuple) else given).detach())

    hooks = [block.register_forward_pre_hook(entering, with_kwargs=True) for block in blocks]
    hooks.append(blocks[-1].register_forward_hook(leaving))
    try:
        with torch.no_grad():
            model(input_ids=ids, use_cache=False)
    finally:
        for hook in hooks:
            hook.remove()
    if len(states) != len(blocks) + 1:
        raise ConfigError(
            f"{len(states) - 1} of {len(blocks)} blocks are run for a text: {model.config.model_type} is no chain of blocks"
        )
    return states
