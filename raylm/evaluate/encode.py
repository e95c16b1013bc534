"""Rows of one tokenizer for a model of another: encoded anew with the number of text bytes of each, and how long prompts are."""

from __future__ import annotations

import json
import math
from typing import Any

from raylm.core.errors import RaylmError
from raylm.evaluate.lm import LM


def encoded_anew(rows: list[Any], theirs: Any, lm: LM) -> list[dict[str, Any]]:
    """Rows with `tokens` of the model's tokenizer, `bytes` of their text, and the whole `text` of the row they are a part of;
    `begin` of the tokens are none of the text.

    Special tokens part documents: the model's own end token stands in their place, and its begin token before a row where
    it is used to one. A row longer than the model's positions becomes several. A row that the model's tokenizer does not
    give back whole (unknown characters, letters made small) is left out and counted: its bits would be those of other text.
    """
    import numpy as np

    ours, most = lm.tokenizer, lm.positions()
    special, found, reasons = set(theirs.all_special_ids), [], []
    start = ours.encode("a")[:1] if ours.bos_token_id is not None else []
    begin = start if start == [ours.bos_token_id] else []
    end = [ours.eos_token_id] if ours.eos_token_id is not None else []
    for row in rows:
        parts = _parts(row, theirs, special)
        pieces = [ours.encode(text, add_special_tokens=False) for text in parts]
        given = [ours.decode(piece, skip_special_tokens=True, clean_up_tokenization_spaces=False) for piece in pieces]
        # a row of nothing but spaces may have no token
        whole = any(pieces) and [text.strip() for text in given] == [text.strip() for text in parts]
        reasons.append("" if whole else "that the model's tokenizer does not give back whole")
        if not whole or not parts:
            continue
        tokens = [*begin, *(token for at, piece in enumerate(pieces) for token in [*(end if at else []), *piece])]
        whole_text = theirs.decode(row, skip_special_tokens=True)
        size, begun = len(whole_text.encode()), len(begin)
        per_token = size / (len(tokens) - begun)
        for part in np.array_split(tokens, math.ceil(len(tokens) / (most or len(tokens)))):
            found.append({"tokens": part, "bytes": per_token * (len(part) - begun), "text": whole_text, "begin": begun})
            begun = 0
    lm.leave_out(reasons)
    return found


def longest_prompt(card: Any, rows: Any, lm: LM) -> int:
    """Tokens of the longest prompt that a task's rows make for a model: of their own tokens, or of their messages as its template
    and tokenizer render them, which may need more (`any_tokenizer`)."""
    if getattr(card, "any_tokenizer", False):
        most = min(getattr(card, "num_rows", len(rows)), len(rows))
        asked = [json.loads(rows[at].get("messages") or "[]") for at in range(most)]
        try:
            if longest := max((len(lm.rendered(messages)) for messages in asked if messages), default=0):
                return longest
        except RaylmError:
            # the task itself says it, and costs that task alone
            pass
    return max((len(rows[at]["tokens"]) for at in range(len(rows))), default=0)


def _parts(row: Any, tokenizer: Any, special: set[int]) -> list[str]:
    """The texts between special tokens."""
    parts: list[list[int]] = [[]]
    for token in row:
        if int(token) in special:
            parts.append([])
        else:
            parts[-1].append(int(token))
    return [tokenizer.decode(part, clean_up_tokenization_spaces=False) for part in parts if part]
