"""One model under evaluation: log-probabilities (transformers) and generated answers (vLLM)."""

from __future__ import annotations

import math
from collections import Counter
from typing import Any

from raylm.core.errors import DataError
from raylm.data.batch import pad
from raylm.model.limits import positions
from raylm.model.load import load_model, load_tokenizer
from raylm.model.scores import token_logprobs
from raylm.model.shapes.shape import Shape

MICRO = 16
MOST_LEFT_OUT = 0.1
"""Share of texts that a grade may be without: what is left would no longer be what was asked for."""


class LM:
    """A model on one worker. Texts that it cannot be asked about are left out of a grade and counted.

    Args:
        path: where its files lie; of a fresh model, where its tokenizer lies.
        fresh: shape, token facts and seed of a model to measure before its first step.
        generator: asks the held vLLM engine for texts; None where only log-probabilities are asked for.
        room: most tokens of prompt and answer that the engine takes; None for any number.
        drawer: asks it for the tokens of answers.
        valuer: asks a task's reward model for the values of sequences.
    """

    def __init__(
        self,
        path: str,
        fresh: tuple[Shape, dict[str, Any], int] | None = None,
        generator: Any = None,
        room: int | None = None,
        drawer: Any = None,
        valuer: Any = None,
    ) -> None:
        self._path, self._fresh, self._generator, self._room = path, fresh, generator, room
        self._drawer, self._valuer = drawer, valuer
        self._model: Any = None
        self._tokenizer: Any = None
        self._left_out: Counter[str] = Counter()
        self._asked = 0

    @property
    def tokenizer(self) -> Any:
        """The model's own."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._path)
        return self._tokenizer

    def logprob_sums(self, tokens: list[Any], masks: list[Any]) -> list[float]:
        """Sum of log-probabilities over each row's counted tokens, in nats; NaN for a row that could not be scored.

        Raises:
            DataError: more than a tenth of the rows could not be scored, or a token id lies beyond the model's embedding.
        """
        import torch

        self._load()
        most, known = positions(self._model.config.to_dict()), self._model.get_input_embeddings().weight.shape[0]
        reasons = [_unfit(row, mask, most, known) for row, mask in zip(tokens, masks, strict=True)]
        fit = [at for at, reason in enumerate(reasons) if not reason]
        sums = [math.nan] * len(tokens)
        with torch.no_grad():
            for start in range(0, len(fit), MICRO):
                batch = fit[start : start + MICRO]
                device = next(self._model.parameters()).device
                padded = pad([tokens[at] for at in batch], [masks[at] for at in batch], 0, device)
                found = (token_logprobs(self._model, padded).double() * padded.weight_BT).sum(1).tolist()
                for at, value in zip(batch, found, strict=True):
                    if math.isfinite(value):
                        sums[at] = value
                    else:
                        reasons[at] = "without a finite score"
        self.leave_out(reasons)
        return sums

    def answers(self, prompts: list[list[int]], max_tokens: int) -> list[str | None]:
        """Greedy answers as text; None for a prompt that could not be asked.

        Raises:
            DataError: more than a tenth could not be asked.
        """
        return self._asked_of(self._generator, prompts, max_tokens)

    def drawn(self, prompts: list[list[int]], max_tokens: int) -> list[list[int] | None]:
        """Greedy answers as the tokens that were drawn, as `answers` else."""
        return self._asked_of(self._drawer, prompts, max_tokens)

    def values(self, card: Any, sequences: list[list[int]]) -> list[float]:
        """What the reward model `card.model` says at the end of each sequence.

        Raises:
            DataError: it reads other tokens than the task's rows have.
        """
        return self._valuer(card, sequences)

    def _asked_of(self, generator: Any, prompts: list[list[int]], max_tokens: int) -> list[Any]:
        room = None if self._room is None else self._room - max_tokens
        reasons = [_unfit(prompt, None, room, None) for prompt in prompts]
        self.leave_out(reasons)
        answered = iter(generator([prompt for prompt, why in zip(prompts, reasons, strict=True) if not why], max_tokens))
        return [None if why else next(answered) for why in reasons]

    def text(self, tokens: Any) -> str:
        """Tokens as text, without special tokens."""
        return self.tokenizer.decode(tokens, skip_special_tokens=True)

    def positions(self) -> int | None:
        """Longest text that the model was made for, in tokens; None where it says nothing of that."""
        self._load()
        return positions(self._model.config.to_dict())

    def told(self) -> str:
        """One clause on what was left out since the last call, "" for nothing."""
        told = _counted(self._left_out, self._asked) if self._left_out else ""
        self._left_out, self._asked = Counter(), 0
        return told

    def leave_out(self, reasons: list[str]) -> None:
        """Count the texts that cannot be asked about: a reason for each text, "" where there is none.

        Raises:
            DataError: they are more than a tenth, or there are no texts.
        """
        if not reasons:
            raise DataError("there are no texts to ask about", next="raise held_out of the tokenize stage")
        left = Counter(reason for reason in reasons if reason)
        if left.total() > MOST_LEFT_OUT * len(reasons):
            raise DataError(f"no grade: {_counted(left, len(reasons))}", next="look at the model and at the rows")
        self._left_out += left
        self._asked = max(self._asked, len(reasons))

    def _load(self) -> None:
        import torch

        if self._model is None:
            shape = self._fresh
            self._model = shape[0].build(shape[1], shape[2]) if shape else load_model(self._path)
            # Ray hides the GPUs that were not asked for
            self._model.to("cuda" if torch.cuda.is_available() else "cpu").eval()


def _unfit(row: Any, mask: Any, most: int | None, known: int | None) -> str:
    """Why a text cannot be asked about, "" when it can."""
    import numpy as np

    if len(row) == 0 or (mask is not None and not np.any(np.asarray(mask)[1:])):
        return "empty"
    if most is not None and len(row) > most:
        return f"longer than the {most} tokens that the model has room for"
    if known is not None and int(np.max(row)) >= known:
        raise DataError(f"token {int(np.max(row))} of the rows lies beyond the model's embedding of {known}")
    return ""


def _counted(left: Counter[str], asked: int) -> str:
    return ", ".join(f"{count} of {asked} texts {reason}" for reason, count in sorted(left.items()))
