"""What a reward model says of sequences; runs on a worker."""

from __future__ import annotations

from collections.abc import Sequence

from raylm.core.errors import DataError
from raylm.model.load import load_tokenizer
from raylm.model.same_tokens import other_tokens
from raylm.model.token_values import TokenValues


def last_values(path: str, tokenizer: str, sequences: Sequence[Sequence[int]], dtype: str, batch_tokens: int) -> list[float]:
    """The value at the last token of each sequence.

    Args:
        path: where the reward model lies.
        tokenizer: where the tokenizer lies that the sequences were made with.

    Raises:
        DataError: it reads other tokens, or renders dialogues by another template, than the sequences were made with.
        ConfigError: it has no value head.
    """
    theirs, own = load_tokenizer(tokenizer), load_tokenizer(path)
    why = other_tokens([{"tokens": list(range(len(theirs)))}], theirs, own)
    if not why and theirs.chat_template != own.chat_template:
        why = "its chat template is another one"
    if why:
        raise DataError(
            f"the reward model does not read the tokens of these prompts: {why}",
            where=path,
            next="tokenize the prompts with `tokenizer` set to the reward model, for an evaluate stage of its own",
        )
    return [float(value_T[-1]) for value_T in TokenValues(path, dtype, batch_tokens)(sequences)]
