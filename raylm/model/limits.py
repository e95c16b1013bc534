"""Limits of a model from its config.json: positions, vocabulary, end tokens, tokenizer."""

from __future__ import annotations

import json
from typing import Any

from raylm.core.errors import ArtifactError
from raylm.core.storage import Folder

# keys under which architectures name their longest sequence; the smallest counts
_POSITIONS = (
    "max_position_embeddings", "n_positions", "max_seq_len", "seq_length", "max_target_positions", "max_sequence_length",
    "max_seq_length", "seq_len",
)  # fmt: skip
# rotary scalings whose factor stretches the positions that the config names; the others' are stretched already, or do not
_STRETCHING = ("linear", "dynamic", "ntk")


def config_of(path: str) -> dict[str, Any]:
    """config.json of a folder, a bucket or a hub name. Raises ArtifactError when there is none."""
    folder = Folder(path)
    if folder.exists("config.json"):
        return folder.read_json("config.json")
    from transformers import AutoConfig

    try:
        return AutoConfig.from_pretrained(path, trust_remote_code=False).to_dict()
    except (OSError, ValueError) as cause:
        raise ArtifactError(f"no model could be loaded: {str(cause).splitlines()[0]}", where=path) from cause


def text_part(config: dict[str, Any]) -> dict[str, Any]:
    """The config of the language model inside a composite one (text beside images or sound); of any other the config itself."""
    return next((config[key] for key in ("text_config", "llm_config") if isinstance(config.get(key), dict)), config)


def positions(config: dict[str, Any]) -> int | None:
    """Longest sequence of prompt and completion, or None where the architecture has no limit of its own."""
    text = text_part(config)
    longest = text.get("model_max_length") or min((text[key] for key in _POSITIONS if text.get(key)), default=None)
    if longest is None:
        return None
    rope = text.get("rope_parameters") or text.get("rope_scaling") or {}
    kinds = [rope, *(part for part in rope.values() if isinstance(part, dict))]
    factors = [part.get("factor") for part in kinds if part.get("rope_type", part.get("type")) in _STRETCHING]
    return int(longest * max([1.0, *(float(factor) for factor in factors if factor)]))


def experts(config: dict[str, Any]) -> int:
    """Routed experts of a layer, of which each token is sent to a few; 0 of a dense model."""
    text = text_part(config)
    return max(int(text.get(key) or 0) for key in ("num_experts", "num_local_experts", "n_routed_experts", "moe_num_experts"))


def vocabulary(config: dict[str, Any]) -> int | None:
    """Rows of the embedding."""
    return text_part(config).get("vocab_size") or config.get("vocab_size")


def ends(path: str, config: dict[str, Any]) -> list[int]:
    """Tokens that end an answer: those of config.json, generation_config.json and the tokenizer beside them."""
    found = [text_part(config).get("eos_token_id"), config.get("eos_token_id")]
    folder = Folder(path)
    if folder.exists("generation_config.json"):
        found.append(folder.read_json("generation_config.json").get("eos_token_id"))
    if folder.exists("tokenizer_config.json"):
        end = folder.read_json("tokenizer_config.json").get("eos_token")
        word = end.get("content") if isinstance(end, dict) else end
        found.append(tokens_of(folder).get(word) if isinstance(word, str) else None)
    flat = [one for part in found for one in (part if isinstance(part, list) else [part])]
    return sorted({one for one in flat if isinstance(one, int)})


def tokens_of(folder: Folder) -> dict[str, int]:
    """Token -> id of the tokenizer.json in `folder`; empty where there is none."""
    if not folder.exists("tokenizer.json"):
        return {}
    try:
        read = folder.read_json("tokenizer.json")
    except json.JSONDecodeError as cause:
        raise ArtifactError("tokenizer.json is no JSON", where=folder.uri) from cause
    vocab = read["model"].get("vocab") or {}
    known = dict(vocab) if isinstance(vocab, dict) else {word: at for at, (word, *_) in enumerate(vocab)}
    return known | {token["content"]: token["id"] for token in read.get("added_tokens") or ()}
