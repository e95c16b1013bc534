"""Takes a reference to weights (a stage, a folder, a hub name), leaves a transformers model and its tokenizer."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.core.context import Context
from raylm.core.errors import ArtifactError, ConfigError

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


def kind_of_model(config: Any) -> str:
    """`causal`, `masked` (an encoder with an output layer) or `encoder_decoder`, by a transformers config."""
    if getattr(config, "is_encoder_decoder", False):
        return "encoder_decoder"
    return "masked" if any(name.endswith("ForMaskedLM") for name in getattr(config, "architectures", None) or ()) else "causal"


def auto_class(config: Any) -> Any:
    """The class of transformers that makes and loads models of this config."""
    import transformers

    name = {"causal": "CausalLM", "masked": "MaskedLM", "encoder_decoder": "Seq2SeqLM"}[kind_of_model(config)]
    return getattr(transformers, f"AutoModelFor{name}")


def load_model(path: str, dtype: str = "auto") -> torch.nn.Module:
    """Any language model of Hugging Face's layout, of the kind that its config names; safetensors only, no code from the
    checkpoint is run.

    Args:
        path: a folder or a hub name.
        dtype: `auto` (as stored), `float32`, `bfloat16`.

    Raises:
        ArtifactError: there is no such model, or its files cannot be read.
    """
    from transformers import AutoConfig

    try:
        at = on_this_machine(path)
        config = AutoConfig.from_pretrained(at, trust_remote_code=False)
        return auto_class(config).from_pretrained(at, config=config, dtype=dtype, use_safetensors=True, trust_remote_code=False)
    except (OSError, ValueError) as cause:
        raise ArtifactError(
            f"no model could be loaded: {str(cause).splitlines()[0]}",
            where=path,
            next="name a folder with config.json and *.safetensors, or a hub model you have access to",
        ) from cause


def load_tokenizer(path: str) -> Any:
    """The tokenizer beside a model. Raises ArtifactError when there is none."""
    from transformers import AutoTokenizer

    try:
        return AutoTokenizer.from_pretrained(on_this_machine(path), trust_remote_code=False)
    except (OSError, ValueError) as cause:
        raise ArtifactError(f"no tokenizer could be loaded: {str(cause).splitlines()[0]}", where=path) from cause


def check_tokenizer(model: torch.nn.Module, tokens: dict[str, Any], rows: str) -> None:
    """Raises ConfigError when rows hold token ids that the model has no embedding for, or end texts with another token."""
    config: Any = model.config
    if tokens["vocab_size"] > config.vocab_size:
        raise ConfigError(
            f"the tokenizer of {rows!r} has {tokens['vocab_size']} tokens, the model's embedding {config.vocab_size}",
            next="tokenize with the tokenizer that belongs to the model",
        )
    ends = config.eos_token_id if isinstance(config.eos_token_id, list) else [config.eos_token_id]
    if tokens.get("eos_token_id") is not None and None not in ends and tokens["eos_token_id"] not in ends:
        raise ConfigError(
            f"{rows!r} ends texts with token {tokens['eos_token_id']}, the model with {ends}",
            next="tokenize with the tokenizer that belongs to the model",
        )
