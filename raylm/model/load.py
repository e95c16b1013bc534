"""Loads a transformers model and its tokenizer from a stage, a folder or a hub name."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.context import Context
from raylm.core.errors import ArtifactError, ConfigError, RaylmError
from raylm.core.variants import VALUED
from raylm.model.preflight import (
    LEFT_OVER,
    Needs,
    check_folder,
    check_kind,
    check_plain,
    check_tokens,
    check_vocabulary,
    kind_of,
    refuse_tensors,
)
from raylm.model.transformers_private import model_classes

if TYPE_CHECKING:
    import torch


def checkpoint_path(ctx: Context, ref: str) -> str:
    """Address of the weights that `ref` names: a folder, a bucket URI or a hub name. Workers make it a path of their own
    machine with `on_this_machine`."""
    from raylm.core.artifact import MANIFEST, Checkpoint
    from raylm.core.storage import Folder

    if ctx.is_stage(ref) or Folder(ref).exists(MANIFEST):
        return ctx.open_as(ref, Checkpoint).uri
    return ref if "://" in ref or not Folder(ref).exists() else Folder(ref).uri


def on_this_machine(address: str) -> str:
    """What transformers and vLLM can read: a copy of what lies in a bucket; folders and hub names stay as they are."""
    from raylm.core.storage import Folder

    return str(Folder(address).local()) if "://" in address else address


def folder_of(address: str) -> Path | None:
    """The local folder of an address: itself, a bucket's copy, or what was fetched of a hub name; None for one never fetched."""
    at = Path(on_this_machine(address))
    if at.is_dir():
        return at
    found = beside(address, "config.json")
    return found.parent if found else None


def beside(address: str, name: str) -> Path | None:
    """The file `name` beside weights, fetched from the hub where the address is a name of it; None where there is none."""
    from transformers.utils.hub import cached_file

    at = on_this_machine(address)
    if Path(at).is_dir():
        return file if (file := Path(at) / name).is_file() else None
    try:
        found = cached_file(at, name, _raise_exceptions_for_missing_entries=False, _raise_exceptions_for_connection_errors=False)
    except (OSError, ValueError):
        return None
    return Path(found) if found else None


def kind_of_model(config: Any) -> str | None:
    """`causal`, `masked` (an encoder with an output layer), `seq2seq`, `reward` or `classifier`, by a transformers config."""
    return kind_of(config.to_dict())


def text_config(config: Any) -> Any:
    """The part of a transformers config that describes the language model: of most models all of it."""
    return config if getattr(config, "is_encoder_decoder", False) else config.get_text_config()


def is_composite(config: Any) -> bool:
    """Whether the model has parts beside its language model: a vision or audio tower."""
    return text_config(config) is not config


def auto_class(config: Any) -> Any:
    """The class of transformers that makes and loads models of this config: of those that know it, the one config.json names.

    Raises:
        ArtifactError: none of them knows such a model.
    """
    import transformers

    kinds = {"masked": ("MaskedLM",), "seq2seq": ("Seq2SeqLM",), **dict.fromkeys(VALUED, ("SequenceClassification",))}.get(
        kind_of_model(config) or "", ("CausalLM", "ImageTextToText")
    )
    autos = [getattr(transformers, f"AutoModelFor{name}") for name in kinds]
    known = [each for each in autos if type(config) in model_classes(each)]
    if not known:
        raise ArtifactError(f"model_type {config.model_type!r} is no language model that transformers knows")
    made = set(getattr(config, "architectures", None) or ())
    return next((each for each in known if model_classes(each)[type(config)].__name__ in made), known[0])


def load_config(path: str) -> Any:
    """The transformers config of a model. Raises ArtifactError when there is none, or it contradicts itself."""
    import transformers
    from transformers import AutoConfig

    with _in_words(path):
        config = AutoConfig.from_pretrained(on_this_machine(path), trust_remote_code=False)
        auto_class(config)
        for name in getattr(config, "architectures", None) or ():
            named: Any = getattr(transformers, name, None)
            if named is not None and named.config_class not in (type(config), type(text_config(config))):
                raise ArtifactError(
                    f"config.json names {name}, but model_type {config.model_type}: vLLM would build another network",
                    next="take the config.json that belongs to the weights",
                )
    return config


def load_model(path: str, dtype: str = "auto", plain: bool = False, value_head: bool = False) -> torch.nn.Module:
    """Any language model of Hugging Face's layout, of the kind that its config names; safetensors only, no code from the
    checkpoint is run.

    Args:
        path: a folder or a hub name.
        dtype: `auto` (as stored), `float32`, `bfloat16`.
        plain: its matrices will be updated or rounded: quantized ones will not do.
        value_head: it may be a reward model or a sequence classifier too, see `raylm.model.value_head`.

    Raises:
        ArtifactError: there is no such model, its files cannot be read, or they are not what config.json says.
        ConfigError: it is quantized and may not be.
    """
    at = on_this_machine(path)
    if Path(at).is_dir():
        check_folder(Path(at), Needs(plain=plain, value_head=value_head))
    config = load_config(path)
    check_kind(config.to_dict(), None, path, value_head)
    if plain:
        check_plain(config.to_dict(), path)
    return load_as(auto_class(config), path, dtype, config=config)


def load_as(auto: Any, path: str, dtype: str = "auto", *, unread: str = "", absent: str = "", **options: Any) -> Any:
    """A model by one of transformers' auto classes, from safetensors, with every tensor that it has and no other.

    Args:
        unread: pattern of names that may be left over, besides buffers.
        absent: pattern of names that may be missing: what is made of them is not asked for.

    Raises:
        ArtifactError: it cannot be loaded, or tensors are missing, left over, or of another shape.
    """
    with _in_words(path), _silent():
        model, found = auto.from_pretrained(
            on_this_machine(path),
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            # reported below, with everything else that does not fit
            ignore_mismatched_sizes=True,
            output_loading_info=True,
            **options,
        )
    left = [name for name in found["unexpected_keys"] if not re.search(f"{LEFT_OVER.pattern}|{unread or '$^'}", name)]
    missing = [name for name in found["missing_keys"] if not re.search(absent or "$^", name)]
    refuse_tensors(missing, left, list(found["mismatched_keys"]), len(model.state_dict()), path)
    return model


def freeze_unread(model: Any) -> None:
    """Freeze what no text passes through (a vision tower and its projection): it would get no gradient."""
    if not is_composite(model.config):
        return
    read = {
        id(p)
        for part in (model.get_decoder(), model.get_input_embeddings(), model.get_output_embeddings())
        for p in part.parameters()
    }
    for p in model.parameters():
        if id(p) not in read:
            p.requires_grad_(False)
    for layer in getattr(text_config(model.config), "cross_attention_layers", None) or ():
        # passed over where there is no image
        model.get_decoder().layers[layer].requires_grad_(False)


def check_start(address: str, needs: Needs, rows: Any = None, vocab_size: int = 0) -> None:
    """Refuse weights that a stage cannot start from, before its ranks do: what can be seen of a folder on this machine.

    Args:
        rows: folder (`Folder`) of the rows that will be learned, with their tokenizer.
        vocab_size: that of their tokenizer.
    """
    folder = Path(address)
    if "://" in address or not folder.is_dir():
        return
    config = check_folder(folder, needs)
    check_plain(load_config(address).to_dict() if needs.plain else {}, address, needs.four_bits)
    if rows is not None:
        check_vocabulary(config, vocab_size, rows.uri, address)
        if rows.is_local:
            check_tokens(Path(rows.path("tokenizer")), folder, rows.uri)


def load_tokenizer(path: str) -> Any:
    """The tokenizer beside a model. Raises ArtifactError when there is none."""
    from raylm.model.tokenizer import read_tokenizer

    try:
        return read_tokenizer(on_this_machine(path))
    except (OSError, ValueError, ImportError, KeyError) as cause:
        raise ArtifactError(f"no tokenizer could be loaded: {_first_line(cause)}", where=path) from cause


def check_tokenizer(model: torch.nn.Module, tokens: dict[str, Any], rows: str) -> None:
    """Raises ConfigError when rows hold token ids that the model has no embedding for, or end texts with another token."""
    network: Any = model
    config = text_config(network.config)
    check_vocabulary({"vocab_size": config.vocab_size}, tokens["vocab_size"], rows, f"model_type {config.model_type}")
    said = [getattr(each, "eos_token_id", None) for each in (config, network.config, getattr(model, "generation_config", None))]
    ends = sorted({end for each in said if each is not None for end in (each if isinstance(each, list) else [each])})
    if tokens.get("eos_token_id") is not None and ends and tokens["eos_token_id"] not in ends:
        raise ConfigError(
            f"{rows!r} ends texts with token {tokens['eos_token_id']}, the model with {ends}",
            next="tokenize with the tokenizer that belongs to the model",
        )


@contextlib.contextmanager
def _in_words(path: str) -> Iterator[None]:
    """What transformers and its libraries raise about files and configs, as an ArtifactError."""
    from huggingface_hub.errors import StrictDataclassError
    from safetensors import SafetensorError

    try:
        yield
    except RaylmError as error:
        raise type(error)(error.what, where=error.where or path, next=error.next) from error.__cause__
    except (
        ArithmeticError, AssertionError, AttributeError, ImportError, LookupError, OSError, RuntimeError, SafetensorError,
        StrictDataclassError, TypeError, ValueError,
    ) as cause:  # fmt: skip
        raise ArtifactError(
            f"no model could be loaded: {_first_line(cause)}",
            where=path,
            next="name a folder with config.json and *.safetensors, or a hub model you have access to",
        ) from cause


@contextlib.contextmanager
def _silent() -> Iterator[None]:
    """Keep transformers from printing tables of tensors: what matters of them is raised."""
    from transformers.utils import logging

    before = logging.get_verbosity()
    logging.set_verbosity_error()
    try:
        yield
    finally:
        logging.set_verbosity(before)


def _first_line(cause: BaseException) -> str:
    lines = [line.strip() for line in str(cause).splitlines() if line.strip()]
    # a validator of configs says in the second line what it found
    said = next((line for line in lines[1:2] if lines[0].endswith(":")), lines[0] if lines else "")
    return said or type(cause).__name__
