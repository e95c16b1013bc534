"""Loads a model with the matrices of its blocks in 4 bits, one after the other: stored in full, or by bitsandbytes in 4 bits."""

from __future__ import annotations

import re
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError
from raylm.model.linear_4bit import BLOCK, Linear4bit, Quantization
from raylm.model.load import auto_class, is_composite, load_as, load_config, on_this_machine
from raylm.model.preflight import Needs, check_folder, check_kind, quantization_of
from raylm.model.transformers_private import forget_quantization, kept_in_float32

if TYPE_CHECKING:
    import torch

NUMBERED = re.compile(r"\.\d+\.")
"""What the names of all that stands in a block have."""
ROUTERS = ("gate", "router", "shared_expert_gate")


def quantizable(model: Any) -> list[str]:
    """Names of the linear layers that may be put into 4 bits: those inside of blocks, without routers.

    Raises:
        ConfigError: there are none.
    """
    import torch

    head, within = model.get_output_embeddings(), ""
    if is_composite(model.config):
        # what no text passes through would be rounded for nothing
        decoder = model.get_decoder()
        within = next(name for name, module in model.named_modules() if module is decoder) + "."
    left_out = {*ROUTERS, *kept_in_float32(model)}
    found = [
        name
        for name, module in model.named_modules()
        if type(module) is torch.nn.Linear
        and module is not head
        and name.startswith(within)
        and NUMBERED.search(name)
        and name.rsplit(".", 1)[-1] not in left_out
    ]
    if not found:
        raise ConfigError(
            f"no linear layer inside of blocks of {type(model).__name__} can be put into 4 bits",
            where="adapter.kind = 'qlora'",
            next="adapter.kind = 'lora'",
        )
    return found


def load_4bit(path: str, dtype: str, how: Quantization, value_head: bool = False) -> torch.nn.Module:
    """A model with `quantizable` matrices in 4 bits, the rest of it in `dtype`, on the CPU. They are rounded as they are read.

    Args:
        path: a folder or a hub name; what bitsandbytes has stored in 4 bits is taken as it is.
        dtype: `float32`, `bfloat16`.
        value_head: it may be a reward model too.

    Raises:
        ArtifactError: there is no such model, or its files cannot be read.
        ConfigError: it is quantized in another way.
    """
    import torch
    from transformers import BitsAndBytesConfig

    at = on_this_machine(path)
    if Path(at).is_dir():
        check_folder(Path(at), Needs(value_head=value_head))
    config = load_config(path)
    check_kind(config.to_dict(), None, path, value_head)
    auto, more = auto_class(config), {}
    if (stored := quantization_of(config.to_dict())) is None:
        with torch.device("meta"):
            empty: Any = auto.from_config(config)
        wanted = set(quantizable(empty))
        left = [name for name, module in empty.named_modules() if isinstance(module, torch.nn.Linear) and name not in wanted]
        more["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type=how.quant_type,
            bnb_4bit_use_double_quant=how.double_quant,
            bnb_4bit_compute_dtype=getattr(torch, dtype),
            # patterns, of which one that is met by the beginning of a name is enough
            llm_int8_skip_modules=[f"{re.escape(name)}$" for name in left],
        )
    else:
        check_stored(stored, how, path)
    model = load_as(auto, path, dtype, config=config, device_map={"": "cpu"}, **more)
    _take_over(model, how)
    forget_quantization(model)
    return model


def check_stored(stored: dict[str, Any], how: Quantization, where: str) -> None:
    """Raises ConfigError for weights that are quantized otherwise than by bitsandbytes in the 4 bits that are asked for."""
    if not stored.get("load_in_4bit", stored.get("_load_in_4bit")):
        raise ConfigError(
            f"these weights are quantized ({stored.get('quant_method') or 'unknown method'}), and not by bitsandbytes in 4 bits",
            where=where,
            next="name the weights they were made from",
        )
    said = (stored.get("bnb_4bit_quant_type", "fp4"), bool(stored.get("bnb_4bit_use_double_quant")))
    if said != tuple(how):
        twice = " with double quantization" if said[1] else ""
        raise ConfigError(
            f"these weights are stored in {said[0]}{twice}, the adapter asks for another",
            where=where,
            next=f'adapter = {{kind = "qlora", quant_type = "{said[0]}", double_quant = {str(said[1]).lower()}}}',
        )


def _take_over(model: torch.nn.Module, how: Quantization) -> None:
    """Replace the layers of bitsandbytes, which hold scales beside their weight, by such that hold all in it."""
    from bitsandbytes.nn.modules import Linear4bit as Theirs

    for name, module in list(model.named_modules()):
        if not isinstance(module, Theirs):
            continue
        weight: Any = module.weight
        state = weight.quant_state
        if state.blocksize != BLOCK or state.nested != how.double_quant or state.quant_type != how.quant_type:
            raise ConfigError(
                f"{name} is stored in blocks of {state.blocksize} in {state.quant_type}; here they are of {BLOCK}",
                next="name the weights that it was made from",
            )
        taken = Linear4bit(how.pack_state(weight.data, state), module.bias, tuple(state.shape), how)
        model.set_submodule(name, taken.train(module.training))
    for parameter in model.parameters():
        if parameter.is_floating_point():
            # a view of the file would hold all of its pages, those of the matrices too
            parameter.data = parameter.data.clone()
