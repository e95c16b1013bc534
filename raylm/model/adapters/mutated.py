"""Adapters that begin with a part of the base's matrices (PiSSA, OLoRA), written as plain LoRA beside the unchanged base."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import ConfigError


class Start(dict[str, Any]):
    """The matrices of an adapter as they began, by name. Rank 0 alone needs them: copies for other ranks are empty."""

    def __deepcopy__(self, memo: Any) -> Start:
        return Start()

    def __reduce__(self) -> Any:
        return Start, ()


def as_plain_lora(made: Any, config: Any, named: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
    """peft's config and tensors of twice the rank: W_rest + s B A = W + s (B A - B0 A0), as peft converts them.

    Args:
        made: the peft model.
        config: its LoraConfig.
        named: its trained tensors, as peft stores them.
    """
    from dataclasses import replace

    import torch

    if config.use_rslora and (config.rank_pattern or config.alpha_pattern):
        raise ConfigError(
            "rsLoRA with patterns of ranks cannot be written beside the unchanged base",
            where="adapter.init_lora_weights",
            next="drop rank_pattern and alpha_pattern, or use_rslora",
        )
    start = {name.replace(".default", ""): tensor for name, tensor in made.start.items()}
    found = dict(named)
    for name, tensor in named.items():
        if ".lora_A." in name:
            found[name] = torch.cat([tensor, start[name]], 0)
        elif ".lora_B." in name:
            found[name] = torch.cat([tensor, -start[name]], 1)
    # the scale stays: alpha / rank, or alpha / sqrt(rank)
    grown = replace(
        config,
        init_lora_weights=True,
        r=2 * config.r,
        lora_alpha=config.lora_alpha * (2**0.5 if config.use_rslora else 2),
        rank_pattern={key: 2 * rank for key, rank in config.rank_pattern.items()},
        alpha_pattern={key: 2 * alpha for key, alpha in config.alpha_pattern.items()},
    )
    return grown, found
