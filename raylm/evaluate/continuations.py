"""Texts as tokens of a model with what counts of them: a context and its continuation, windows of a long text."""

from __future__ import annotations

from typing import Any


def pair_tokens(tokenizer: Any, context: str, continuation: str) -> tuple[list[int], int]:
    """Tokens of context and continuation together, and where the continuation begins. Both are encoded in one piece, with the
    special tokens that the tokenizer itself writes around a text; spaces at the end of the context are read as the
    continuation's, and before an empty context stands the begin or end token."""
    stripped = context.rstrip()
    continuation = context[len(stripped) :] + continuation
    if not stripped:
        tokens = tokenizer.encode(continuation, add_special_tokens=False)
        return (tokens if tokens[:1] == [_prefix(tokenizer)] else [_prefix(tokenizer), *tokens]), 1
    return _encoded(tokenizer, stripped + continuation), len(_encoded(tokenizer, stripped))


def windows(tokenizer: Any, text: str, most: int | None, special_tokens: bool = False) -> list[tuple[list[int], list[int]]]:
    """A text as (tokens, mask) for a model of `most` positions: each token counts once, the first after the begin or end token,
    and later windows are full of what stands before. [] for an empty text.

    Args:
        special_tokens: what the tokenizer itself writes around a text counts, too.
    """
    tokens = _encoded(tokenizer, text) if special_tokens else tokenizer.encode(text, add_special_tokens=False)
    if not tokens:
        return []
    size = min(most or len(tokens), len(tokens))
    found = [([_prefix(tokenizer), *tokens[:size]], [0] + [1] * size)]
    done = size
    while done < len(tokens):
        end = min(done + size, len(tokens))
        row = tokens[end - size - 1 : end]
        found.append((row, [0] * (len(row) - (end - done)) + [1] * (end - done)))
        done = end
    return found


def _encoded(tokenizer: Any, text: str) -> list[int]:
    """As the tokenizer does it by itself; what begins with its begin token (a rendered dialogue) is not begun twice."""
    begun = text.startswith(tokenizer.decode(_prefix(tokenizer)))
    return tokenizer.encode(text, **({"add_special_tokens": False} if begun else {}))


def _prefix(tokenizer: Any) -> int:
    """What stands before a text that nothing stands before."""
    return tokenizer.bos_token_id if tokenizer.bos_token_id is not None else tokenizer.eos_token_id
