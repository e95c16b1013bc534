"""Pre-tokenization patterns: their regular expressions, and the character classes these use."""

from __future__ import annotations

import json
from functools import cache
from typing import TYPE_CHECKING, Any, Literal, NamedTuple

if TYPE_CHECKING:
    import numpy as np

PatternName = Literal["gpt2", "gpt4"]

OTHER, LETTER, NUMBER, SPACE = 0, 1, 2, 3

# as the tokenizers of GPT-2 and of Llama 3 (GPT-4's, with a greedy [\r\n]+) spell them; {number} is ours
_GPT2 = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?{number}| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+"
_GPT4 = r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|{number}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"


class Pattern(NamedTuple):
    """How text is split into pre-tokens, which no merge crosses.

    `digits`: most digits in one pre-token, 0 for any number of them.
    """

    name: PatternName
    digits: int

    @classmethod
    def of(cls, name: PatternName, digits: int | None) -> Pattern:
        """The pattern with its default number of digits (gpt2: any length, gpt4: 3), or with `digits` at most."""
        return cls(name, digits if digits is not None else {"gpt2": 0, "gpt4": 3}[name])

    def regex(self) -> str:
        """The regular expression, as Oniguruma reads it."""
        number = {0: r"\p{N}+", 1: r"\p{N}"}.get(self.digits, rf"\p{{N}}{{1,{self.digits}}}")
        return (_GPT2 if self.name == "gpt2" else _GPT4).replace("{number}", number)

    def pre_tokenizer(self) -> Any:
        """The pre-tokenizer of `tokenizers`: this pattern, then bytes spelled as characters."""
        from tokenizers import Regex, pre_tokenizers

        if self == Pattern("gpt2", 0):
            return pre_tokenizers.ByteLevel(add_prefix_space=False)
        split = pre_tokenizers.Split(Regex(self.regex()), "isolated")
        return pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def recognize(tokenizer: Any) -> Pattern | None:
    """The pattern by which a `tokenizers.Tokenizer` splits text before it spells bytes; None when it is none of ours.

    NFC before it is accepted: text is counted as it is, which is NFC nearly always.
    """
    spec = json.loads(tokenizer.to_str())
    if spec["normalizer"] not in (None, {"type": "NFC"}) or spec["pre_tokenizer"] is None:
        return None
    *before, last = spec["pre_tokenizer"].get("pretokenizers", [spec["pre_tokenizer"]])
    if last["type"] != "ByteLevel" or last["add_prefix_space"]:
        return None
    if not before:
        return Pattern("gpt2", 0) if last["use_regex"] else None
    if len(before) > 1 or before[0]["type"] != "Split" or last["use_regex"]:
        return None
    ours = {Pattern(name, digits).regex(): Pattern(name, digits) for name in ("gpt2", "gpt4") for digits in (0, 1, 3)}
    return ours.get(before[0]["pattern"].get("Regex")) if before[0]["behavior"] == "Isolated" else None


@cache
def classes() -> np.ndarray:
    """uint8[0x110000]: OTHER, LETTER, NUMBER or SPACE of every code point, as `tokenizers`' own regular expressions say.

    Taken from the library and not from `unicodedata`, whose version of Unicode may differ. Takes 0.6 s, once in a process.
    """
    import numpy as np
    from tokenizers import Regex, pre_tokenizers

    # surrogates are no characters, and beyond plane 3 there are no letters, numbers or spaces (a test asks)
    points = np.concatenate([np.arange(0xD800), np.arange(0xE000, 0x40000)])
    text = "".join(map(chr, points.tolist()))
    found = np.zeros(0x110000, np.uint8)
    for kind, regex in ((LETTER, r"\p{L}+"), (NUMBER, r"\p{N}+"), (SPACE, r"\s+")):
        # with "removed" the gaps between what is left are the matches
        end = 0
        for _, (start, stop) in pre_tokenizers.Split(Regex(regex), "removed").pre_tokenize_str(text):
            found[points[end:start]] = kind
            end = stop
        found[points[end:]] = kind if end < len(points) else 0
    return found


@cache
def byte_characters() -> tuple[str, ...]:
    """The character that spells each byte in a byte-level vocabulary: printable Latin-1 as itself, the rest from U+0100 on.

    GPT-2's table: https://github.com/openai/gpt-2/blob/master/src/encoder.py
    """
    printable = {*range(0x21, 0x7F), *range(0xA1, 0xAD), *range(0xAE, 0x100)}
    moved = iter(range(0x100, 0x200))
    return tuple(chr(byte if byte in printable else next(moved)) for byte in range(256))
