"""Rows of embedding and output layer for tokens that a model has not: new special tokens, an extended tokenizer."""

from __future__ import annotations

from typing import Any

from pydantic import Field

from raylm.core.config import Config
from raylm.core.errors import ConfigError


class NewTokens(Config):
    """How a model gets rows for the tokens of its rows' tokenizer that are more than it has."""

    described: dict[str, str] = {}
    """Words for some of the tokens: {"<|tool|>" = "tool call"}. Such a token begins as the mean of its words' rows, every other
    one as the mean of all old rows."""
    pad_to_multiple_of: int = Field(default=1, gt=0)
    """The number of rows is rounded up to a multiple of it: tensor ranks must divide it."""

    def resize(self, model: Any, vocab_size: int, tokenizer: Any, known: int | None = None) -> Any:
        """`model` with at least `vocab_size` rows; nothing is done where it has them and knows their tokens. Tied ends stay tied,
        its config is right, and `new_token_ids` says to an adapter which rows must be trained.

        Args:
            tokenizer: that of the rows; old ids mean there what they meant before.
            known: tokens of the model's own tokenizer. It may have more rows, which were never trained: new tokens get these.

        Raises:
            ConfigError: a described token is none of the new ones, or its words are.
        """
        import torch

        table, head = model.get_input_embeddings(), model.get_output_embeddings()
        old = table.weight.shape[0]
        # rows below are known, those from here on mean new tokens
        first = min(old, known or old)
        if vocab_size <= first and not self.described:
            return model
        starts = self._starts(first, vocab_size, tokenizer)
        size = old if vocab_size <= old else -(-vocab_size // self.pad_to_multiple_of) * self.pad_to_multiple_of
        end_of_new = vocab_size if size == old else size
        ends = [table, head] if head is not None and head.weight.shape[0] == old else [table]
        # in float32, before the matrices are replaced: rows below may lie in bfloat16
        filled = [_rows(end.weight[:first], end_of_new, starts) for end in ends]
        bias = getattr(head, "bias", None) if len(ends) > 1 else None
        biases = None if bias is None else _rows(bias[:first], end_of_new, starts)
        if size > old:
            model.resize_token_embeddings(size, mean_resizing=False)
        with torch.no_grad():
            for end, rows in zip((model.get_input_embeddings(), model.get_output_embeddings()), filled, strict=False):
                end.weight[first:end_of_new].copy_(rows)
            if biases is not None:
                model.get_output_embeddings().bias[first:end_of_new].copy_(biases)
        model.new_token_ids = list(range(first, vocab_size))
        return model

    def _starts(self, old: int, vocab_size: int, tokenizer: Any) -> dict[int, list[int]]:
        """Ids of the words of each described token, by its place among the new rows."""
        found: dict[int, list[int]] = {}
        for token, words in self.described.items():
            number = tokenizer.convert_tokens_to_ids(token)
            if not isinstance(number, int) or not old <= number < vocab_size or tokenizer.unk_token_id == number:
                raise ConfigError(
                    f"{token!r} is no new token: the model knows {old} tokens, the tokenizer {vocab_size}",
                    where="new_tokens.described",
                    next="name tokens that the tokenizer has and the model has not",
                )
            ids = [each for each in tokenizer(words, add_special_tokens=False)["input_ids"] if each < old]
            if not ids:
                raise ConfigError(f"{words!r} has no token that the model knows", where=f"new_tokens.described.{token}")
            found[number - old] = ids
        return found


def _rows(weight: Any, size: int, starts: dict[int, list[int]]) -> Any:
    """New rows behind those of `weight`, float32."""
    wide = weight.detach().float()
    rows = wide.mean(0, keepdim=True).repeat(size - len(wide), *([1] * (wide.dim() - 1)))
    for at, ids in starts.items():
        rows[at] = wide[ids].mean(0)
    return rows
