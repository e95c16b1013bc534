"""Checks a folder of weights against what a stage needs, and refuses what cannot be used. No torch.

config.json: what kind of model it is, whether it is quantized; files: all there and whole; tensors: those that config.json means
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, NamedTuple

from raylm.core.errors import ArtifactError, ConfigError
from raylm.core.variants import VALUED
from raylm.model.headers import WHOLE, Stored, named, read_config, read_headers, read_json, same_values

GENERATION = "generation_config.json"
_TEXT_PARTS = ("text_config", "llm_config", "language_config", "thinker_config")
_KINDS = {
    "causal": "a language model that predicts the next token",
    "masked": "an encoder that predicts masked tokens",
    "seq2seq": "an encoder-decoder",
    "reward": "a reward model, which gives one number",
}
_LABELS = re.compile(
    r"For(Sequence|Token|Image|Audio|Video)?\w*Classification$|ForQuestionAnswering$|ForMultipleChoice$|Reward\w*$"
)
# what only encodes, unless config.json says is_decoder: without an output layer over tokens it is no language model
_ENCODERS = re.compile(
    r"^(\w+[-_])?(albert|bert|camembert|data2vec[-_]text|deberta|deberta[-_]v2|distilbert|electra|ernie|esm|eurobert|flaubert|"
    r"funnel|layoutlm|longformer|luke|megatron[-_]bert|mobilebert|modernbert|mpnet|nomic_bert|rembert|roberta|"
    r"roberta[-_]prelayernorm|roc_bert|roformer|squeezebert|xlm[-_]roberta|xlm[-_]roberta[-_]xl|xmod)$"
)
# buffers that earlier versions stored, and parts that no language model computes with
LEFT_OVER = re.compile(
    r"rotary_emb\.inv_freq$|\.attn\.(masked_)?bias$|\.attention\.(masked_)?bias$|position_ids$|(^|\.)pooler\.|seq_relationship\."
    r"|\.[kv]_scale$"
)


_EXPERT = re.compile(r"(.*\.experts\.)(\d+)(\..*)")


class Needs(NamedTuple):
    """What a stage asks of weights."""

    kind: str | None = None
    """`causal`, `masked`, `seq2seq`; None for any."""
    plain: bool = False
    """They are updated or rounded: quantized ones will not do."""
    engine: bool = False
    """vLLM reads them too."""
    text: bool = False
    """They are of a language model alone, without a vision or audio tower."""
    value_head: bool = False
    """A reward model or a sequence classifier will do too."""
    four_bits: bool = False
    """Of quantized ones those that bitsandbytes stored in 4 bits will do."""


def check_folder(folder: Path, needs: Needs | None = None) -> dict[str, Any]:
    """config.json of the weights in `folder`, which are all there and fit it, as far as can be seen without torch.

    Raises:
        ArtifactError: they are no model, not whole, or not what config.json says.
        ConfigError: they are a model of another kind than `needs`.
    """
    needs = needs or Needs()
    config = read_config(folder)
    check_kind(config, needs.kind, str(folder), needs.value_head)
    if needs.plain:
        check_plain(config, str(folder), needs.four_bits)
    if needs.text and (parts := [key for key in _TEXT_PARTS if isinstance(config.get(key), dict)]):
        raise ConfigError(
            f"this model has parts beside its language model ({parts[0]} in config.json); here it must be one of text alone",
            where=str(folder),
            next="name a model of text, or fine-tune this one with a train stage",
        )
    if (folder / GENERATION).is_file():
        # read again when what was trained is written: that is late to find it broken
        read_json(folder / GENERATION)
    tensors = read_headers(folder)
    if config.get("quantization_config") is None:
        _check_tensors(config, tensors, folder)
    if needs.engine:
        _check_head(config, tensors, folder)
        read = {tensor.file for tensor in tensors.values()}
        if (folder / WHOLE) in read and (
            strays := sorted(path.name for path in folder.glob("*.safetensors") if path not in read)
        ):
            raise ArtifactError(
                f"vLLM reads every safetensors file, transformers {WHOLE} alone: {named(strays)}",
                where=str(folder),
                next="move the others to another folder",
            )
    return config


def kind_of(config: dict[str, Any]) -> str | None:
    """`causal`, `masked`, `seq2seq`, `reward`, `classifier`, by config.json; None for what says nothing of that."""
    made = [str(name) for name in config.get("architectures") or ()]
    encodes = _ENCODERS.match(str(config.get("model_type"))) and not config.get("is_decoder")
    labels = config.get("num_labels") or len(config.get("id2label") or ())
    if any(name.endswith("ForSequenceClassification") for name in made) and not encodes and not config.get("is_encoder_decoder"):
        # transformers leaves two classes without names unsaid
        return "reward" if labels == 1 else "classifier"
    if any(_LABELS.search(name) for name in made):
        return None
    if config.get("is_encoder_decoder"):
        return "seq2seq"
    # what Electra is pretrained as tells real tokens from replaced ones
    if any(name.endswith(("ForMaskedLM", "ForPreTraining")) and name != "ElectraForPreTraining" for name in made):
        return "masked"
    return None if encodes else "causal"


def variant_in(folder: Path) -> str:
    """Variant (`raylm.core.variants`) of weights that raylm did not make; "" where neither config.json nor a file says it."""
    if not (folder / "config.json").is_file():
        return "export:gguf" if any(folder.glob("*.gguf")) else ""
    config = read_config(folder)
    if quantization_of(config) is not None:
        return "quantized"
    return kind_of(config) or ""


def check_kind(config: dict[str, Any], kind: str | None, where: str, value_head: bool = False) -> None:
    """Raises ConfigError when config.json describes another kind of model than `kind`, or no language model at all.

    Args:
        value_head: a reward model or a sequence classifier will do too.
    """
    found = kind_of(config)
    if value_head if found in VALUED else found is not None and kind in (None, found):
        return
    made = ", ".join(config.get("architectures") or ()) or f"model_type {config.get('model_type')}"
    said = (
        f"this is {_KINDS[found]}"
        if found in _KINDS
        else "this is an encoder or a classifier, without an output layer over tokens"
    )
    raise ConfigError(
        f"{said} ({made}); asked for is {_KINDS[kind] if kind else 'a language model'}",
        where=where,
        next="name other weights" + (", or an objective for these" if found else ""),
    )


def check_plain(config: dict[str, Any], where: str, four_bits: bool = False) -> None:
    """Raises ConfigError when config.json says that the weights are quantized: their matrices could not be updated.

    Args:
        four_bits: what bitsandbytes stored in 4 bits will do.
    """
    said = quantization_of(config)
    if said is None or (four_bits and said.get("load_in_4bit")):
        return
    how = said.get("quant_method") or ("bitsandbytes" if "load_in_4bit" in said or "load_in_8bit" in said else "unknown method")
    raise ConfigError(
        f"these weights are quantized ({how}): only norms and embeddings would learn, and matrices be rounded a second time",
        where=where,
        next="name the weights they were made from, and quantize what comes out with a compress stage",
    )


def quantization_of(config: dict[str, Any]) -> dict[str, Any] | None:
    """How the weights of this config.json, or of one of its parts, are quantized."""
    texts = [config, *(part for part in config.values() if isinstance(part, dict))]
    return next((found for part in texts if (found := part.get("quantization_config"))), None)


def check_vocabulary(config: dict[str, Any], vocab_size: int, rows: str, where: str) -> None:
    """Raises ConfigError when rows hold token ids that the model has no embedding for."""
    size = config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
    if size is not None and vocab_size > size:
        raise ConfigError(
            f"the tokenizer of {rows!r} has {vocab_size} tokens, the model's embedding {size}",
            where=where,
            next="tokenize with the tokenizer that belongs to the model, or train it rows for new ones: new_tokens = {}",
        )


def check_tokens(rows: Path, model: Path, name: str) -> None:
    """Raises ConfigError when the tokenizer of rows and the one beside the model mean other texts by the same ids.

    Single tokens may differ: reserved ones are given other names.
    """
    ours, theirs = _vocabulary(rows), _vocabulary(model)
    shared = ours.keys() & theirs.keys()
    other = sorted(number for number in shared if ours[number] != theirs[number])
    if len(other) > len(shared) / 100:
        at = other[0]
        raise ConfigError(
            f"the tokenizer of {name!r} is not the model's: {len(other)} of {len(shared)} ids mean other texts, "
            f"{at} is {ours[at]!r} there and {theirs[at]!r} here",
            where=str(model),
            next="tokenize with the tokenizer that belongs to the model",
        )


def _vocabulary(folder: Path) -> dict[int, str]:
    """Text of each id by tokenizer.json, added tokens left out; {} where there is none."""
    file = folder / "tokenizer.json"
    if not file.is_file():
        return {}
    described = read_json(file).get("model") or {}
    added = {token.get("id") for token in read_json(file).get("added_tokens") or ()}
    found = described.get("vocab") or {}
    pairs = ((number, text) for text, number in found.items()) if isinstance(found, dict) else enumerate(e[0] for e in found)
    return {number: text for number, text in pairs if number not in added}


def refuse_tensors(missing: list[str], left: list[str], mismatched: list[tuple[str, Any, Any]], total: int, where: str) -> None:
    """Raises ArtifactError that names tensors which the model lacks, does not know, or has in another shape."""
    if mismatched:
        shown = [f"{name} is {_shape(stored)}, config.json means {_shape(meant)}" for name, stored, meant in sorted(mismatched)]
        raise ArtifactError(
            f"{len(shown)} tensors have another shape than config.json means: {named(shown)}",
            where=where,
            next="take config.json and weights of one and the same model",
        )
    also = f"; {len(left)} that no part of the model takes: {named(sorted(left))}" if left else ""
    if missing:
        raise ArtifactError(
            f"{len(missing)} of {total} tensors are missing: {named(sorted(missing))}{also}",
            where=where,
            next="take the whole checkpoint, of the class that config.json names; the missing ones would be random numbers",
        )
    if left:
        raise ArtifactError(
            f"{len(left)} tensors belong to no part of the model that config.json describes: {named(sorted(left))}",
            where=where,
            next="take config.json and weights of one and the same model; without these it would compute something else",
        )


def _check_tensors(config: dict[str, Any], tensors: dict[str, Stored], folder: Path) -> None:
    """Compare names and shapes with those of the families that are simple enough to be written down."""
    refuse_tensors(_holes(tensors), [], [], len(tensors), str(folder))
    meant = decoder_tensors(config)
    if meant is None:
        return
    prefix = "" if any(name.startswith("model.") for name in tensors) else "model."
    stored = {name if name == "lm_head.weight" else prefix + name: tensor for name, tensor in tensors.items()}
    if kind_of(config) in VALUED:
        del meant["lm_head.weight"]
        meant["score.weight"] = (config.get("num_labels") or len(config.get("id2label") or ()) or 2, config["hidden_size"])
        stored = {name.replace("model.score", "score"): tensor for name, tensor in stored.items()}
    # of two that are tied, one is enough
    tied = {"lm_head.weight", "model.embed_tokens.weight"} if config.get("tie_word_embeddings") else set()
    spared = tied if tied & stored.keys() else set()
    left = [name for name in stored.keys() - meant.keys() if not LEFT_OVER.search(name)]
    missing = [name for name in meant.keys() - stored.keys() if name not in spared]
    other = [(name, stored[name].shape, shape) for name, shape in meant.items() if name in stored and stored[name].shape != shape]
    refuse_tensors(missing, left, other, len(meant), str(folder))


def _holes(tensors: dict[str, Stored]) -> list[str]:
    """Tensors that other experts of the same layer have; one or more of them lack it."""
    numbers: dict[str, set[int]] = {}
    for name in tensors:
        if found := _EXPERT.match(name):
            numbers.setdefault(f"{found[1]}{{}}{found[3]}", set()).add(int(found[2]))
    layers: dict[str, set[int]] = {}
    for form, those in numbers.items():
        layers.setdefault(form.partition("{}")[0], set()).update(those)
    return [form.format(number) for form, those in numbers.items() for number in sorted(layers[form.partition("{}")[0]] - those)]


def _check_head(config: dict[str, Any], tensors: dict[str, Stored], folder: Path) -> None:
    """Raises ArtifactError when the files hold a head of its own that config.json calls tied: vLLM would not read it."""
    head = tensors.get("lm_head.weight")
    table = next((tensor for name, tensor in tensors.items() if name.endswith("embed_tokens.weight")), None)
    if config.get("tie_word_embeddings") and head and table and not same_values(head, table):
        raise ArtifactError(
            "config.json says tie_word_embeddings, but lm_head.weight is a matrix of its own: vLLM would not read it",
            where=str(folder),
            next=f'write "tie_word_embeddings": false into {folder / "config.json"}',
        )


def decoder_tensors(config: dict[str, Any]) -> dict[str, tuple[int, ...]] | None:
    """Names and shapes of Llama and its nearest kin; None for others."""
    c, kind = config, config.get("model_type")
    needed = ("hidden_size", "num_attention_heads", "num_hidden_layers", "intermediate_size", "vocab_size")
    if kind not in ("llama", "mistral", "qwen2", "qwen3") or any(not isinstance(c.get(key), int) for key in needed):
        return None
    hidden, heads, wide = c["hidden_size"], c["num_attention_heads"], c["intermediate_size"]
    head_dim = c.get("head_dim") or (128 if kind == "qwen3" else hidden // heads)
    queries, keys = heads * head_dim, (c.get("num_key_value_heads") or heads) * head_dim
    biased = "qkvo" if kind in ("llama", "qwen3") and c.get("attention_bias") else "qkv" if kind == "qwen2" else ""
    layer: dict[str, tuple[int, ...]] = {}
    for letter, (num_out, num_in) in {
        "q": (queries, hidden), "k": (keys, hidden), "v": (keys, hidden), "o": (hidden, queries)
    }.items():  # fmt: skip
        layer[f"self_attn.{letter}_proj.weight"] = (num_out, num_in)
        if letter in biased:
            layer[f"self_attn.{letter}_proj.bias"] = (num_out,)
    for name, shape in {"gate": (wide, hidden), "up": (wide, hidden), "down": (hidden, wide)}.items():
        layer[f"mlp.{name}_proj.weight"] = shape
        if kind == "llama" and c.get("mlp_bias"):
            layer[f"mlp.{name}_proj.bias"] = shape[:1]
    layer |= {"input_layernorm.weight": (hidden,), "post_attention_layernorm.weight": (hidden,)}
    if kind == "qwen3":
        layer |= {"self_attn.q_norm.weight": (head_dim,), "self_attn.k_norm.weight": (head_dim,)}
    table = (c["vocab_size"], hidden)
    found = {"model.embed_tokens.weight": table, "model.norm.weight": (hidden,), "lm_head.weight": table}
    return found | {f"model.layers.{at}.{name}": shape for at in range(c["num_hidden_layers"]) for name, shape in layer.items()}


def _shape(shape: Any) -> str:
    return " x ".join(str(size) for size in shape) or "a number"
