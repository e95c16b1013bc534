"""Whether a model reads rows of another tokenizer as the same text."""

from __future__ import annotations

import itertools
import json
from collections.abc import Iterable
from typing import Any

# what tokenizers of different make cut differently: code, spaces, line ends, digits, accents, scripts, emoji
PROBES = (
    "def add(n):\n    return n + 1\n\n\n",
    "  two  spaces, a\ttab, 1234567 and 3.14; don't",
    "naïve Zürich Œuvre Ελληνικά Русский עברית",
    "東京タワー 한국어 👩\u200d💻",
)
COLUMNS = ("tokens", "prompt", "chosen", "rejected")


def other_tokens(rows: Iterable[dict[str, Any]], theirs: Any, ours: Any) -> str:
    """Why the model would read other text in `rows`: the first difference between tokenizers that they meet, "" for none.

    Args:
        rows: rows of token ids, under the names of `COLUMNS`.
        theirs, ours: tokenizers of the rows and of the model.
    """
    if _rules(theirs) == _rules(ours):
        return ""
    columns = [row[name] for row in rows for name in COLUMNS if name in row]
    used = sorted({int(token) for column in columns for token in column})
    pairs = zip(used, theirs.convert_ids_to_tokens(used), ours.convert_ids_to_tokens(used), strict=True)
    for token, their, our in pairs:
        if their != our:
            return f"token {token} of the rows is {their!r}, to the model {our!r}"
    texts = (theirs.decode(column, skip_special_tokens=True) for column in columns[:16])
    for text in itertools.chain(PROBES, texts):
        if theirs.encode(text, add_special_tokens=False) != ours.encode(text, add_special_tokens=False):
            return f"the model's tokenizer cuts {text[:40]!r} into other tokens"
    return ""


def _rules(tokenizer: Any) -> dict[str, Any] | None:
    """Everything that decides a tokenizer's ids."""
    core = getattr(tokenizer, "backend_tokenizer", None)
    if core is None:
        return {"tokenizer": id(tokenizer)}
    rules = json.loads(core.to_str())
    return {name: value for name, value in rules.items() if name not in ("padding", "truncation", "version")}
