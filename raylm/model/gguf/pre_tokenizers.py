"""Which of llama.cpp's pre-tokenizers splits text as a tokenizer.json does: told by its regular expressions, never guessed."""

from __future__ import annotations

from typing import Any

from raylm.core.errors import ConfigError

_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|"
_QWEN35 = (
    r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
)
DIGIT = "one digit at a time"
NAMES: dict[tuple[tuple[str, ...], bool], str] = {
    ((_GPT2,), False): "gpt-2",
    ((DIGIT, _GPT2), False): "smollm",
    ((_GPT4 + r"\p{N}{1,3}" + _REST,), True): "llama-bpe",
    # Llama 3's expression without its `ignore_merges`
    ((_GPT4 + r"\p{N}{1,3}" + _REST,), False): "dbrx",
    ((_GPT4 + r"\p{N}" + _REST,), False): "qwen2",
    ((_QWEN35,), False): "qwen35",
}
"""Name in a file, by the expressions that split text one after the other and by whether a whole pre-token that is a token is
taken without merges. Expressions that llama.cpp only approximates (GPT-4o's, Tekken's) are not among them."""


def pre_tokenizer(spec: dict[str, Any], where: str) -> str:
    """llama.cpp's name for the pre-tokenizer of a byte-level BPE tokenizer.json.

    Raises:
        ConfigError: it has none that splits alike.
    """
    part: dict[str, Any] = spec.get("pre_tokenizer") or {"type": "none"}
    steps: list[dict[str, Any]] = part.get("pretokenizers", [part])
    found = [_step(step, last=step is steps[-1]) for step in steps]
    known = NAMES.get((tuple(text for text in found if text), bool(spec["model"].get("ignore_merges"))))
    if known is None or None in found:
        said = " then ".join(_said(step) for step in steps)
        raise ConfigError(
            f"llama.cpp has no pre-tokenizer that splits text as this one does: {said[:400]}",
            where=where,
            next=f"known are those of {', '.join(sorted(set(NAMES.values())))}; raylm's bpe trainer: pattern gpt2, or gpt4",
        )
    return known


def _step(step: dict[str, Any], last: bool) -> str | None:
    """The expression of a step, "" for bytes alone; None for one that has none here."""
    kind = step["type"]
    if kind == "ByteLevel" and last and not step.get("add_prefix_space"):
        return _GPT2 if step.get("use_regex", True) else ""
    if kind == "Digits" and step.get("individual_digits"):
        return DIGIT
    if kind == "Split" and step.get("behavior") == "Isolated" and not step.get("invert"):
        return DIGIT if step["pattern"].get("Regex") in (r"\p{N}", r"\d") else step["pattern"].get("Regex")
    return None


def _said(step: dict[str, Any]) -> str:
    pattern = step.get("pattern", {})
    options = [f"{key}={value}" for key, value in step.items() if key not in ("type", "pattern", "trim_offsets")]
    return f"{step['type']}({', '.join([*map(str, pattern.values()), *options])})"
