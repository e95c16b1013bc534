"""Refuses adapters beside what peft would pass over, and what cannot be computed or merged right."""

from __future__ import annotations

from typing import Any

from raylm.core.config import did_you_mean
from raylm.core.errors import ConfigError
from raylm.model.adapters.merging import PEFT


def beside_new_head() -> ConfigError:
    """Why no adapter is attached to a model that gets a value head: peft would leave the head as it was drawn."""
    return ConfigError(
        "an adapter beside a new value head would train under a random readout",
        where="adapter",
        next='drop `adapter` (full training), train the head (adapter.modules_to_save = ["score"]), or start from a reward model',
    )


def not_mutable(card: Any, name: str) -> ConfigError:
    """Why `card`, which begins with a part of each matrix of the base, cannot stand beside `name`."""
    return ConfigError(
        f"init_lora_weights = {card.init_lora_weights!r} takes a part out of linear layers alone, not of {name}",
        where="adapter.init_lora_weights",
        next="drop init_lora_weights, or name linear layers in `modules` and no `target_parameters`",
    )


def linear_layers(model: Any) -> list[str]:
    """Last parts of the names of the model's linear layers, without its output layer: what `modules` may name."""
    head = model.get_output_embeddings()
    linear = _linear()
    found = (name for name, module in model.named_modules() if type(module).forward in linear and module is not head)
    # peft's own layers around them end so
    return sorted({name.removesuffix(".base_layer").rsplit(".", 1)[-1] for name in found if ".lora_" not in name})


def check_names(card: Any, model: Any) -> None:
    """Raises ConfigError for names that peft would pass over."""
    modules, parameters = [name for name, _ in model.named_modules()], [name for name, _ in model.named_parameters()]
    linear = f"its linear layers are {', '.join(linear_layers(model))}"
    asked: tuple[tuple[str, Any, list[str], str], ...] = (
        ("modules", card.modules, modules, linear),
        ("exclude_modules", card.exclude_modules, modules, linear),
        ("modules_to_save", card.modules_to_save, modules, linear),
        ("target_parameters", card.target_parameters, parameters, "name the last parts of a tensor's name"),
    )
    for key, said, names, hint in asked:
        missing = [] if isinstance(said, str) else [part for part in said if not any(_ends(name, part) for name in names)]
        if missing:
            ends = {name.rsplit(".", 1)[-1] for name in names}
            raise ConfigError(
                f"the model has no {'tensors' if names is parameters else 'layers'} called {', '.join(missing)}",
                where=f"adapter.{key} = {said!r}",
                next=hint + did_you_mean(missing[0], ends).partition("Known:")[0],
            )
    count = getattr(model.config.get_text_config(), "num_hidden_layers", None)
    if count and (beyond := [layer for layer in card.layers_to_transform if not 0 <= layer < count]):
        raise ConfigError(
            f"the model has no block {beyond[0]}", where="adapter.layers_to_transform", next=f"blocks are 0 to {count - 1}"
        )


def check_made(card: Any, made: Any, head: Any, layers: str) -> None:
    """Raises ConfigError for adapters that would not be computed or merged right.

    Args:
        made: a peft model.
        head: the output layer, as it was before.
        layers: names of linear layers, for the reader.
    """
    import torch

    adapted = [(name, module) for name, module in made.named_modules() if hasattr(module, "lora_A")]
    for name, module in adapted:
        base, plain = module.base_layer, (*_linear(), torch.nn.Embedding.forward)
        if hasattr(module, "parameter_name"):
            continue
        turned = type(base).forward is not torch.nn.Linear.forward and card.init_lora_weights == "olora"
        if card.mutates_base and (isinstance(base, torch.nn.Embedding) or turned):
            # peft would begin as ever, and be written as if it had not; of a transposed matrix OLoRA takes the wrong sides
            raise not_mutable(card, name.removeprefix(PEFT))
        # a layer may do more than multiply with its matrix; what scales its rows peft scales too
        if type(base).forward not in plain and not (isinstance(base, torch.nn.Embedding) and hasattr(base, "embed_scale")):
            raise ConfigError(
                f"adapters stand beside linear layers and embeddings alone, not {name} ({type(base).__name__})",
                next=f"name others in `modules`: {layers}",
            )
    if card.use_dora and card.dropout and any(module.base_layer is head for _, module in adapted):
        raise ConfigError(
            "no DoRA with dropout can stand beside the output layer: its logits are never made whole",
            where="adapter.modules",
            next="set adapter.dropout = 0, or use_dora = false",
        )
    for name, module in made.named_modules():
        if hasattr(module, "trainable_tokens_delta") and getattr(module.base_layer, "bias", None) is not None:
            raise ConfigError(
                f"peft trains rows of {name.removesuffix('.token_adapter').removeprefix(PEFT)} without its bias",
                where="adapter.trainable_token_indices",
                next="train all weights: drop `adapter`",
            )
    _check_tied(made, layers)


def _check_tied(made: Any, layers: str) -> None:
    """Two adapters on one matrix, or one on a matrix with two names, would be merged into it as one."""
    owners: dict[int, list[str]] = {}
    for name, parameter in made.named_parameters(remove_duplicate=False):
        owners.setdefault(id(parameter), []).append(name)
    tied = [names for names in owners.values() if len(names) > 1]
    # rows of tokens are the same on both sides (peft's tied wrapper)
    beside = [names for names in tied if any(".base_layer." in name and ".token_adapter." not in name for name in names)]
    if beside:
        raise ConfigError(
            f"no adapter can stand beside tied weights ({' and '.join(beside[0])})",
            next=f"name others in `modules`: {layers}; or train the tied matrix whole: "
            'adapter.modules_to_save = ["embed_tokens"]',
        )
    if apart := [names for names in tied if 0 < sum(".token_adapter." in name for name in names) < len(names)]:
        raise ConfigError(
            f"rows of tokens would be trained in one of several tied weights alone ({' and '.join(apart[0])})",
            where="adapter.trainable_token_indices",
            next="train the whole matrix: adapter.modules_to_save, or no adapter at all",
        )
    if half := [names for names in tied if len({_wrapped(name) for name in names}) > 1]:
        raise ConfigError(
            f"one of two tied weights would be trained alone ({' and '.join(half[0])})",
            where="adapter.modules_to_save",
            next='name the embedding in modules_to_save ("embed_tokens"): the output layer goes with it',
        )


def check_layout(layers: dict[str, Any], mesh: Any) -> None:
    """Raises ConfigError where ranks that share matrices or blocks cannot share what stands beside them.

    Args:
        layers: peft's layers by name, see `raylm.model.adapters.merging.adapted_layers`.
        mesh: the layout.
    """
    ends, experts = _ends_of(layers), [name for name, layer in layers.items() if hasattr(layer, "parameter_name")]
    for key, at in (("tensor", ends + experts), ("pipeline", ends), ("expert", experts)):
        if getattr(mesh, key) > 1 and at:
            raise ConfigError(
                f"the adapter beside {at[0].removeprefix(PEFT)} cannot be shared by ranks of mesh.{key}",
                where="adapter",
                next=f"set mesh.{key} = 1, or name layers inside of blocks in `modules` and no `modules_to_save`",
            )


def read_aside(layers: dict[str, Any]) -> list[str]:
    """Adapted layers whose weights are read by others than the layer itself: ends, and tensors of experts."""
    found = _ends_of(layers) + [name for name, layer in layers.items() if hasattr(layer, "parameter_name")]
    return [name.removeprefix(PEFT) for name in dict.fromkeys(found)]


def _ends_of(layers: dict[str, Any]) -> list[str]:
    return [name for name in layers if not any(part.isdigit() for part in name.split("."))]


def _wrapped(name: str) -> bool:
    return ".modules_to_save." in name


def _linear() -> tuple[Any, ...]:
    """What linear layers do that adapters may stand beside."""
    import torch
    from transformers.pytorch_utils import Conv1D

    from raylm.model.linear_4bit import Linear4bit

    return torch.nn.Linear.forward, Conv1D.forward, Linear4bit.forward


def _ends(name: str, part: str) -> bool:
    return name == part or name.endswith(f".{part}")
