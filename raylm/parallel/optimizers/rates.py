"""Learning rates of single parameters as factors of the schedule's: by name, by depth, of LoRA's second matrix."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

from raylm.core.errors import ConfigError
from raylm.model.name_patterns import check_patterns, fits

# the outermost: T5's blocks are stacks of layers themselves (`encoder.block.1.layer.0.`)
_BLOCK = re.compile(r"(.*?\.(?:layers|layer|h|block|blocks))\.(\d+)\.")
# of LoRA+: B, and what has one dimension (https://arxiv.org/abs/2402.12354; peft's create_loraplus_optimizer)
_LORA_B = ("*.lora_B.*", "*.lora_magnitude_vector.*")
_LORA_EMBEDDING = "*.lora_embedding_[AB].*"


def with_rates(card: Any, model: Any, adapter: Any = None) -> Any:
    """`card` with the factors of every parameter's learning rate by name (`lr_scale`).

    Args:
        card: an optimizer's.
        model: all of it, before ranks share it.
        adapter: the card of what stands beside its weights.

    Raises:
        ConfigError: a pattern of `lr_scale` means no parameter, or a tied weight by its other name.
    """
    names = [name for name, _ in model.named_parameters(remove_duplicate=False)]
    if said := getattr(card, "lr_scale", None):
        check_patterns(said, names, "optimizer.lr_scale")
        _check_tied(said, model)
    found = dict(said or {})
    if getattr(card, "layerwise_lr_decay", 1.0) != 1.0:
        found |= by_depth(names, card.layerwise_lr_decay)
    ratio = getattr(adapter, "loraplus_lr_ratio", 1.0)
    if ratio != 1.0:
        found |= dict.fromkeys(_LORA_B, ratio) | {_LORA_EMBEDDING: adapter.loraplus_lr_embedding / card.lr}
    return card.model_copy(update={"lr_scale": found}) if found else card


def _check_tied(patterns: Iterable[str], model: Any) -> None:
    """A tied weight is updated once, under its first name: a pattern that means its other one would change nothing."""
    first = {id(p): name for name, p in model.named_parameters()}
    for name, p in model.named_parameters(remove_duplicate=False):
        for pattern in patterns:
            if fits(pattern, name) and not fits(pattern, first[id(p)]):
                raise ConfigError(
                    f"{_bare(name)} is {_bare(first[id(p)])}: tied weights have one learning rate",
                    where=f"optimizer.lr_scale.{pattern}",
                    next=f"name {_bare(first[id(p)])}",
                )


def by_depth(names: list[str], decay: float) -> dict[str, float]:
    """`decay` once for the last block, twice for the one before, and once more than for the first for embeddings; what is behind
    the blocks keeps the whole rate (https://arxiv.org/abs/2106.08254, appendix; https://arxiv.org/abs/2003.10555)."""
    depths: dict[str, int] = {}
    for name in names:
        if block := _BLOCK.match(name):
            depths[block[1]] = max(depths.get(block[1], 0), int(block[2]) + 1)
    found: dict[str, float] = {}
    for stack, depth in depths.items():
        found |= {f"^{re.escape(_bare(stack))}\\.{at}\\.": decay ** (depth - at) for at in range(depth)}
    below = [name for name in names if not _BLOCK.match(name) and ("embed" in name or re.search(r"\.w[tp]e\.|^shared\.", name))]
    deepest = max(depths.values(), default=0)
    return found | {f"^{re.escape(_bare(name))}$": decay ** (deepest + 1) for name in below}


def _bare(name: str) -> str:
    return name.removeprefix("base_model.model.")
