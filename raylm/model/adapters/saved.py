"""Reads adapters in peft's file format, ours or somebody else's, so that training goes on with them.

adapter_config.json --> the card's fields; what the card has no field for is refused by name where it is in use
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from raylm.core.errors import ArtifactError, ConfigError
from raylm.model.headers import read_headers, read_json, same_values
from raylm.model.load import beside, on_this_machine
from raylm.model.weight_files import weight_names

CONFIG, WEIGHTS = "adapter_config.json", "adapter_model.safetensors"
# peft's names of what a card has
FIELDS = {
    "r": "rank", "lora_alpha": "alpha", "lora_dropout": "dropout", "target_modules": "modules",
    "exclude_modules": "exclude_modules", "target_parameters": "target_parameters", "layers_to_transform": "layers_to_transform",
    "modules_to_save": "modules_to_save", "trainable_token_indices": "trainable_token_indices", "use_rslora": "use_rslora",
    "use_dora": "use_dora", "init_lora_weights": "init_lora_weights", "rank_pattern": "rank_pattern",
    "alpha_pattern": "alpha_pattern",
}  # fmt: skip
# these say nothing about what is computed, or follow from the model
ASIDE = {
    "peft_type", "task_type", "auto_mapping", "peft_version", "base_model_name_or_path", "revision", "inference_mode",
    "fan_in_fan_out", "megatron_core", "loftq_config", "qalora_group_size", "runtime_config", "ensure_weight_tying",
}  # fmt: skip
# how matrices began matters no more once they are read, unless the base was changed for them
BEGINNINGS = (True, False, "gaussian", "orthogonal", "eva")


def adapter_file(address: str, name: str) -> Path:
    """A file of the adapter at `address`: peft's folder, a checkpoint with `adapter/` in it, or a name of the hub.

    Raises:
        ArtifactError: there is no such adapter, or its weights are no safetensors.
    """
    at = Path(on_this_machine(address))
    for place in (name, f"adapter/{name}"):
        if at.is_dir() and (at / place).is_file():
            return at / place
        if not at.is_dir() and (found := beside(address, place)):
            return found
    other = at.is_dir() and any(at.glob("**/adapter_model.bin"))
    raise ArtifactError(
        "these weights are a pickle, which may run code" if other else f"there is no adapter here: no {name}",
        where=address,
        next=f"name a folder with {CONFIG} and {WEIGHTS}, a checkpoint with adapter/ in it, or a hub name",
    )


def fields_of(address: str) -> dict[str, Any]:
    """The card's fields of the adapter at `address`.

    Raises:
        ConfigError: it is no LoRA, or uses what is not supported.
    """
    said = read_json(adapter_file(address, CONFIG))
    adapter_file(address, WEIGHTS)
    if said.get("peft_type") != "LORA":
        raise ConfigError(f"this adapter is {said.get('peft_type')}, not LORA", where=address, next="train a new one")
    # what is off is null, false, "none" or empty in every version
    used = {key: value for key, value in said.items() if value not in (None, False, "none", [], {})}
    if unknown := sorted(used.keys() - FIELDS.keys() - ASIDE):
        raise ConfigError(
            f"this adapter uses {', '.join(f'{key} = {used[key]!r}' for key in unknown)}, which is not supported",
            where=address,
            next="merge it with peft, and train a new one beside the result",
        )
    found = {FIELDS[key]: value for key, value in used.items() if key in FIELDS}
    begun = said.get("init_lora_weights", True)
    if begun in BEGINNINGS:
        found["init_lora_weights"] = True
    elif not str(begun).startswith(("pissa", "olora")):
        raise ConfigError(
            f"this adapter began as {begun}, which takes a part of the base's matrices over in a way that is not supported",
            where=address,
            next="merge it with peft, and train a new one beside the result",
        )
    if isinstance(rows := found.get("trainable_token_indices"), dict):
        every = list(rows.values())
        if any(ids != every[0] for ids in every):
            raise ConfigError("this adapter trains other rows in each table", where=address, next="merge it with peft")
        found["trainable_token_indices"] = every[0]
    if isinstance(found.get("layers_to_transform"), int):
        found["layers_to_transform"] = [found["layers_to_transform"]]
    return found


def check_base(address: str, model: str) -> None:
    """Raises ConfigError where the adapter at `address` stands beside other weights than those at `model`, as far as both can be
    read here: merged twice, or beside another model, it would be wrong without a word."""
    file = adapter_file(address, CONFIG)
    if not model:
        return
    at, base = Path(on_this_machine(model)), str(read_json(file).get("base_model_name_or_path") or "")
    wrong = f"the adapter stands beside {base or 'other weights'}, not beside these"
    if file.parent.name == "adapter" and at.is_dir() and file.parent.parent.resolve() == at.resolve():
        raise ConfigError(
            f"these weights have the adapter merged into them; it stands beside {base}", where=model, next=f"model = {base!r}"
        )
    other = Path(on_this_machine(base)) if base else Path()
    if not (base and at.is_dir() and other.is_dir()) or at.resolve() == other.resolve():
        return
    mine, theirs = read_headers(at), read_headers(other)
    for name in sorted(weight_names(file.parent)):
        matrix = f"{name.removeprefix('base_model.model.').partition('.lora_')[0]}.weight"
        if matrix in mine and matrix in theirs and mine[matrix].dtype == theirs[matrix].dtype:
            if not same_values(mine[matrix], theirs[matrix]):
                raise ConfigError(f"{wrong}: {matrix} is another matrix", where=model, next=f"model = {base!r}")
            return


def load_into(made: Any, address: str) -> None:
    """Put the weights of the adapter at `address` into `made`, a peft model of its config.

    Raises:
        ConfigError: tensors are missing, left over or of another shape.
    """
    from peft import set_peft_model_state_dict
    from safetensors.torch import load_file

    from raylm.model.adapters.merging import is_part

    try:
        found = set_peft_model_state_dict(made, load_file(adapter_file(address, WEIGHTS)))
    except (RuntimeError, KeyError) as cause:
        raise ConfigError(
            f"the adapter does not fit this model: {str(cause).splitlines()[-1].strip()}",
            where=address,
            next="name the model that it was trained beside",
        ) from cause
    # of a tensor with two names (tied) a file has one
    tensors = {name: id(p) for name, p in made.named_parameters(remove_duplicate=False) if is_part(name)}
    filled = {number for name, number in tensors.items() if name not in found.missing_keys}
    missing = [name for name in found.missing_keys if name in tensors and tensors[name] not in filled]
    if left := [*found.unexpected_keys, *missing]:
        raise ConfigError(
            f"the adapter does not fit this model: {len(left)} tensors are left over or missing ({left[0]})",
            where=address,
            next="name the model that it was trained beside",
        )
