"""A smaller model of the same class: its config, the model with given weights, and the check that it computes what it should."""

from __future__ import annotations

import copy
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError

if TYPE_CHECKING:
    import torch

# tokens of the check, and by what part of the largest logit two models may differ, by the bytes of a number
PROBE, SAME = 32, {8: 1e-9, 4: 1e-4, 2: 3e-2}
# a block's place in its model: what no setting may depend on
PLACES = ("layer_idx", "layer_id", "layer_number", "layer_index")


def check_decoder(model: Any, method: str) -> None:
    """Raises ConfigError when a model has parts beside one chain of decoder blocks."""
    from raylm.model.load import is_composite

    if model.config.is_encoder_decoder or is_composite(model.config):
        raise ConfigError(
            f"{method} cuts decoders of text alone; {model.config.model_type} has other parts beside it",
            next='take sparse weights ({kind = "wanda"}), or 8 bits',
        )


def field_name(config: Any, name: str) -> str:
    """How this family calls a number of its config: GPT-2's `num_hidden_layers` is `n_layer`."""
    return (getattr(config, "attribute_map", None) or {}).get(name, name)


def changed_config(config: Any, **values: Any) -> Any:
    """A config of the same class with other values, by transformers' common names. Raises ConfigError when they contradict."""
    from huggingface_hub.errors import StrictDataclassError

    fields = config.to_dict()
    fields |= {field_name(config, name): value for name, value in values.items()}
    try:
        return type(config).from_dict(fields)
    except (ValueError, TypeError, StrictDataclassError) as cause:
        raise ConfigError(f"{config.model_type} has no such shape: {cause}") from cause


def rebuild(model: Any, config: Any, weights: dict[str, torch.Tensor]) -> Any:
    """A model like `model` of another config, with these weights by name.

    Raises:
        ConfigError: its class makes other tensors of this config.
    """
    from transformers.initialization import no_init_weights

    from raylm.model.load import auto_class

    with no_init_weights():
        made = auto_class(config).from_config(config)
    # which else comes with the initial weights
    made.tie_weights()
    found = {**dict(made.named_parameters()), **{name: each for name, each in made.named_buffers() if name in made.state_dict()}}
    wrong = [name for name, each in found.items() if name not in weights or weights[name].shape != each.shape]
    if wrong or weights.keys() - made.state_dict().keys():
        raise ConfigError(
            f"the smaller {config.model_type} would have other tensors than were kept: "
            f"{', '.join([*wrong, *sorted(weights.keys() - made.state_dict().keys())][:4])}",
            next="this family cannot be cut so; take another method",
        )
    for name, each in found.items():
        each.data = weights[name].clone()
    if getattr(model, "generation_config", None) is not None:
        made.generation_config = copy.deepcopy(model.generation_config)
    # buffers that no checkpoint holds are still where they were made
    return made.to(model.device).eval()


def probe(model: Any) -> torch.Tensor:
    """Logits [tokens, vocabulary] of a fixed row, float32."""
    import torch

    from raylm.model.limits import positions

    length = min(PROBE, positions(model.config.to_dict()) or PROBE)
    ids = torch.arange(length)[None] * 7919 % model.get_input_embeddings().weight.shape[0]
    with torch.no_grad():
        return model(input_ids=ids.to(model.device), use_cache=False).logits[0].float()


def check_same(meant: torch.Tensor, made: torch.Tensor, model: Any, what: str) -> None:
    """Raises ConfigError when the smaller model computes something else than the one it was cut from, with the same parts."""
    import torch

    # token by token, and without what is added to all logits alike: beside one of large logits others would not count
    wanted, found = (each - each.mean(-1, keepdim=True) for each in (meant, made))
    spread = torch.finfo(torch.float32).eps * meant.norm(dim=-1)
    apart = (wanted - found).norm(dim=-1)
    allowed = SAME[model.dtype.itemsize] * wanted.norm(dim=-1) + 8 * spread
    if not bool((apart <= allowed).all()):
        raise ConfigError(
            f"{model.config.model_type} computes with its {what} in a way that is not known here: logits of the smaller model "
            f"differ by up to {float((apart / wanted.norm(dim=-1).clamp(min=1e-30)).max()):.3g} of their size",
            next="this family cannot be cut so; take another method",
        )


def settings(block: Any) -> list[Any]:
    """What a block's modules are and how they are set, its place among the others apart."""
    plain = (int, float, str, bool, type(None))
    return [
        (
            name,
            type(module).__name__,
            {
                key: value
                for key, value in vars(module).items()
                if isinstance(value, plain) and key[:1] != "_" and key not in (*PLACES, "training")
            },
        )
        for name, module in block.named_modules()
    ]
