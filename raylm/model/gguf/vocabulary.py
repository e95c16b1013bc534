"""A tokenizer as a GGUF file holds it: tokens and their types, merges or scores, special tokens, the chat template."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

from raylm.core.errors import ConfigError
from raylm.model.gguf.pre_tokenizers import pre_tokenizer

NORMAL, UNKNOWN, CONTROL, USER_DEFINED, UNUSED, BYTE = 1, 2, 3, 4, 5, 6
"""Types of tokens, as llama.cpp counts them."""
SPACE = "\u2581"
# ends of turns that llama.cpp knows by their text
KNOWN_ENDS = ("<|eot_id|>", "<|im_end|>", "<|end|>", "<end_of_turn>", "<|endoftext|>", "<|eom_id|>", "<|end_of_text|>")
_GENERATION = re.compile(r"\{%(?P<left>[-+]?)\s*(?P<end>end)?generation\s*(?P<right>[-+]?)%\}")


def vocabulary(tokenizer: Any, vocab_size: int, ends: list[int], where: str) -> dict[str, Any]:
    """Metadata of a tokenizer.

    Args:
        vocab_size: of the model: rows of its embedding.
        ends: ids that end an answer (`raylm.model.checkpoint.end_tokens`).

    Raises:
        ConfigError: llama.cpp cuts no text as this tokenizer does; what of it has no counterpart is named.
    """
    spec = json.loads(tokenizer.backend_tokenizer.to_str())
    model = spec["model"]
    if model["type"] == "BPE" and not model.get("byte_fallback"):
        fields = _byte_level(spec, where)
    elif model["type"] == "BPE":
        fields = _sentence_piece(spec, where)
    else:
        raise ConfigError(
            f"{model['type']} tokenizers are not written as GGUF: llama.cpp cuts text otherwise",
            where=where,
            next='train the tokenizer with kind = "bpe"',
        )
    tokens, types = _tokens(tokenizer, spec, vocab_size, where)
    fields |= {"tokenizer.ggml.tokens": tokens, "tokenizer.ggml.token_type": types}
    fields |= _added_around(tokenizer, where)
    fields |= _special(tokenizer, ends, where)
    return fields | _templates(tokenizer, fields["tokenizer.ggml.add_bos_token"], where)


def notes(tokenizer: Any) -> list[str]:
    """What of the tokenizer llama.cpp leaves out, in words, where that is no reason to refuse it."""
    normalizer = json.loads(tokenizer.backend_tokenizer.to_str()).get("normalizer")
    said = "llama.cpp does not normalize: text that is not in NFC is cut otherwise"
    return [said] if normalizer == {"type": "NFC"} else []


def plain_template(template: str) -> str:
    """A chat template without {% generation %}, which others than transformers do not know; what it renders is the same.

    The tag becomes `if true`: a tag that is cut out would take the line breaks and spaces around it along, or leave them.
    """

    def tag(found: re.Match[str]) -> str:
        return f"{{%{found['left']} {'endif' if found['end'] else 'if true'} {found['right']}%}}"

    return _GENERATION.sub(tag, template)


def _byte_level(spec: dict[str, Any], where: str) -> dict[str, Any]:
    model = spec["model"]
    if spec.get("normalizer") not in (None, {"type": "NFC"}):
        raise _no_counterpart(f"normalizer {spec['normalizer'].get('type')}", where)
    _check_model(model, where)
    return {
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": pre_tokenizer(spec, where),
        "tokenizer.ggml.merges": [" ".join(merge) if isinstance(merge, list) else merge for merge in model["merges"]],
        "tokenizer.ggml.add_space_prefix": False,
    }


def _sentence_piece(spec: dict[str, Any], where: str) -> dict[str, Any]:
    """Merges that scores of sentencepiece make (Llama 2): two pieces that are a token together are merged, best token first."""
    model, prefix = spec["model"], _space_prefix(spec, where)
    _check_model(model, where)
    merges = [tuple(merge) if isinstance(merge, list) else tuple(merge.split(" ")) for merge in model["merges"]]
    order: dict[str, int] = {}
    for rank, (left, right) in enumerate(merges):
        order.setdefault(left + right, rank)
    ranks = [order[left + right] for left, right in merges]
    known, vocab = set(merges), model["vocab"]
    missing = next(
        (
            token
            for token in vocab
            if not _BYTE.fullmatch(token)
            for at in range(1, len(token))
            if token[:at] in vocab and token[at:] in vocab and (token[:at], token[at:]) not in known
        ),
        None,
    )
    if missing is not None or ranks != sorted(ranks):
        raise _no_counterpart(f"merges that no scores of sentencepiece stand for (token {missing!r})", where)
    scores = {token: -float(order[token]) for token in order}
    size = max(vocab.values()) + 1
    by_id = dict.fromkeys(range(size), 0.0) | {vocab[token]: score for token, score in scores.items()}
    return {
        "tokenizer.ggml.model": "llama",
        "tokenizer.ggml.pre": "default",
        "tokenizer.ggml.scores": [by_id[n] for n in range(size)],
        "tokenizer.ggml.add_space_prefix": prefix,
    }


def _space_prefix(spec: dict[str, Any], where: str) -> bool:
    normalizer, split = spec.get("normalizer"), spec.get("pre_tokenizer") or {}
    steps = (normalizer or {}).get("normalizers", [normalizer] if normalizer else [])
    replace = {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}
    if not split and steps == [{"type": "Prepend", "prepend": SPACE}, replace]:
        return True
    if not split and steps == [replace]:
        return False
    whole = not steps and split.get("type") == "Metaspace" and not split.get("split", True)
    if whole and split["replacement"] == SPACE and split.get("prepend_scheme") in ("always", "never"):
        return split["prepend_scheme"] == "always"
    raise _no_counterpart(f"spaces by {json.dumps(normalizer)[:120]} and {json.dumps(split)[:120]}", where)


def _check_model(model: dict[str, Any], where: str) -> None:
    for key in ("dropout", "continuing_subword_prefix", "end_of_word_suffix"):
        if model.get(key):
            raise _no_counterpart(f"{key} = {model[key]!r}", where)


_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def _tokens(tokenizer: Any, spec: dict[str, Any], vocab_size: int, where: str) -> tuple[list[str], list[int]]:
    vocab, added = spec["model"]["vocab"], tokenizer.added_tokens_decoder
    by_id = {number: token for token, number in vocab.items()} | {number: str(each.content) for number, each in added.items()}
    if max(by_id) >= vocab_size:
        raise ConfigError(
            f"the tokenizer has token {max(by_id)}, the model {vocab_size} rows of embeddings",
            where=where,
            next="resize one of them",
        )
    unknown, spelled = spec["model"].get("unk_token"), bool(spec["model"].get("byte_fallback"))
    tokens, types = [], []
    for number in range(vocab_size):
        token = by_id.get(number)
        if token is None:
            tokens.append(f"[PAD{number}]")
            types.append(UNUSED)
            continue
        each = added.get(number)
        if each is not None and (each.lstrip or each.rstrip or each.single_word):
            raise _no_counterpart(f"added token {token!r} that takes spaces beside it, or whole words", where)
        kind = NORMAL if each is None else CONTROL if each.special else USER_DEFINED
        if spelled and token == unknown:
            kind = UNKNOWN
        elif spelled and _BYTE.fullmatch(token):
            kind = BYTE
        tokens.append(token)
        types.append(kind)
    return tokens, types


def _added_around(tokenizer: Any, where: str) -> dict[str, Any]:
    """What the post-processor puts around a text, seen in what it makes of one."""
    plain, whole = tokenizer("a b", add_special_tokens=False)["input_ids"], tokenizer("a b")["input_ids"]
    before = whole[: len(whole) - len(plain)]
    if whole != [*before, *plain] or before not in ([], [tokenizer.bos_token_id]):
        raise _no_counterpart(f"a post-processor that makes {whole} of {plain}", where)
    return {"tokenizer.ggml.add_bos_token": bool(before), "tokenizer.ggml.add_eos_token": False}


def _special(tokenizer: Any, ends: list[int], where: str) -> dict[str, Any]:
    from raylm.model.checkpoint import turn_end

    if not ends:
        raise ConfigError(
            "no token ends an answer of this model", where=where, next="name eos_token_id in generation_config.json"
        )
    eos = tokenizer.eos_token_id if tokenizer.eos_token_id in ends else ends[0]
    turn = turn_end(tokenizer)
    others = sorted({*ends} - {eos}, key=lambda end: (end != turn, end))
    fields = {"eos_token_id": eos, **dict(zip(("eot_token_id", "eom_token_id"), others, strict=False))}
    texts = [tokenizer.convert_ids_to_tokens(end) for end in others[2:]]
    if unread := [text for text in texts if text not in KNOWN_ENDS]:
        raise _no_counterpart(f"more than three ends of answers ({', '.join(unread)})", where)
    fields |= {"bos_token_id": tokenizer.bos_token_id, "padding_token_id": tokenizer.pad_token_id}
    fields |= {"unknown_token_id": tokenizer.unk_token_id}
    return {f"tokenizer.ggml.{name}": number for name, number in fields.items() if number is not None}


def _templates(tokenizer: Any, add_bos: bool, where: str) -> dict[str, Any]:
    found = tokenizer.chat_template
    if not found:
        return {}
    named = {"default": found} if isinstance(found, str) else dict(found)
    if add_bos and "default" in named:
        rendered = str(tokenizer.apply_chat_template([{"role": "user", "content": "a"}], tokenize=False))
        if not rendered.startswith(tokenizer.bos_token):
            raise ConfigError(
                f"the chat template does not begin with {tokenizer.bos_token!r}, which the post-processor puts before texts: "
                "llama.cpp would put it before conversations too",
                where=where,
                next="write {{ bos_token }} into the template if the model has learned it so, or take it from the post-processor",
            )
    keys = {name: "tokenizer.chat_template" + ("" if name == "default" else f".{name}") for name in named}
    return {keys[name]: plain_template(text) for name, text in named.items()}


def _no_counterpart(what: str, where: str) -> ConfigError:
    return ConfigError(f"this tokenizer has no counterpart in llama.cpp: {what}", where=where, next="serve the model as it is")


def template_of(folder: Path) -> str | None:
    """The chat template beside a model that others than transformers can render; None where there is none."""
    from raylm.model.chat_template import written_template

    found = written_template(folder)
    text = found.get("default") if isinstance(found, dict) else found
    return plain_template(text) if text else None
