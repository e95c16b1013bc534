"""The `masked_lm` objective: cross-entropy of masked tokens (BERT)."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from pydantic import Field, PrivateAttr

from raylm.core.errors import ConfigError
from raylm.train.objectives.objective import TokenLoss, draw

if TYPE_CHECKING:
    import numpy as np

    from raylm.data.batch import Batch
    from raylm.model.scores import Inputs


class MaskedLm(TokenLoss):
    """Masked language modelling (https://arxiv.org/abs/1810.04805 section 3.1), drawn anew in each step."""

    rows: ClassVar[tuple[str, ...]] = ("Tokens",)
    needs: ClassVar[tuple[str, ...]] = ("tokenizer",)
    model: ClassVar[str] = "masked"

    kind: Literal["masked_lm"] = "masked_lm"
    share: float = Field(default=0.15, gt=0, lt=1)
    """Share of tokens that are asked for: of them 80 % are hidden, 10 % another token stands in their place, 10 % stay."""
    whole_words: bool = False
    """Draw words in place of tokens: all pieces of a word are asked for, or none."""
    mask_id: int | None = None
    """Token that hides; the tokenizer's mask token when absent."""
    vocab_size: int | None = None
    """Other tokens are drawn below this number; the tokenizer's size when absent."""
    special_ids: tuple[int, ...] | None = None
    """Tokens that are never asked for; the tokenizer's special tokens when absent."""

    # continues_V of the tokenizer: whether a token goes on with the word before it
    _continues: Any = PrivateAttr(None)

    def fitted(self, rows_kind: str, tokenizer: Any) -> MaskedLm:
        mask_id = tokenizer.mask_token_id if self.mask_id is None else self.mask_id
        if mask_id is None:
            raise ConfigError("the tokenizer has no mask token", next="say objective.mask_id, a token that no text uses")
        special = tuple(tokenizer.all_special_ids) if self.special_ids is None else self.special_ids
        size = self.vocab_size or len(tokenizer)
        made = self.model_copy(update={"mask_id": mask_id, "special_ids": special, "vocab_size": size})
        made._continues = continues(tokenizer.convert_ids_to_tokens(list(range(size)))) if self.whole_words else None
        return made

    def inputs(self, batch: Batch, seed: int) -> Inputs:
        import numpy as np
        import torch

        from raylm.model.scores import Inputs

        assert self.mask_id is not None, "not fitted to a tokenizer"
        tokens, asked = batch.tokens_BT.cpu().numpy().copy(), np.zeros(batch.tokens_BT.shape, dtype=np.float32)
        # a row that only fills up a rank's share is asked for nothing
        lengths = (batch.attend_BT.sum(1) * batch.weight_BT.any(1)).tolist()
        for index, length in enumerate(lengths):
            self._hide(tokens[index, :length], asked[index, :length], draw(seed, batch.rows, index))
        hidden_BT, weight_BT = (torch.from_numpy(values).to(batch.tokens_BT.device) for values in (tokens, asked))
        return Inputs({"input_ids": hidden_BT, "attention_mask": batch.attend_BT}, batch.tokens_BT, weight_BT)

    def _hide(self, tokens_T: np.ndarray, asked_T: np.ndarray, random: np.random.Generator) -> None:
        """Change the tokens of one row and mark those that are asked for, in place."""
        import numpy as np

        fate_T, other_T = random.random(len(tokens_T)), random.integers(self.vocab_size or 1, size=len(tokens_T))
        special_T = np.isin(tokens_T, self.special_ids or ())
        chance_T = random.random(len(tokens_T))
        if self._continues is not None:
            # all pieces take the chance of their word's first
            begins_T = ~self._continues[tokens_T] | special_T | np.roll(special_T, 1)
            begins_T[:1] = True
            chance_T = chance_T[begins_T][begins_T.cumsum() - 1]
        picked_T = (chance_T < self.share) & ~special_T
        asked_T[picked_T] = 1.0
        tokens_T[picked_T & (fate_T < 0.8)] = self.mask_id
        swapped_T = picked_T & (fate_T >= 0.9)
        tokens_T[swapped_T] = other_T[swapped_T]


def continues(pieces: Sequence[str]) -> np.ndarray:
    """Which of a vocabulary's pieces go on with a word, bool [V]: `##piece` (WordPiece), else those without a mark of a space."""
    import numpy as np

    if any(piece.startswith("##") for piece in pieces):
        return np.array([piece.startswith("##") for piece in pieces])
    # byte-level BPE writes a space as U+0120 and a line break as U+010A, unigram models write U+2581
    return np.array([not piece.startswith(("\u0120", "\u010a", "\u2581")) for piece in pieces])
