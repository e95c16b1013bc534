"""Takes one model, leaves what tasks may ask of it: log-probabilities (transformers) and answers (vLLM)."""

from __future__ import annotations

from typing import Any

from raylm.data.shards import Rows
from raylm.model.load import load_model, load_tokenizer
from raylm.model.logprobs import pad, token_logprobs
from raylm.model.shapes.shape import Shape

MICRO = 16


class Examinee:
    """A model on one worker.

    Args:
        path: where its files lie; of a fresh model, where its tokenizer lies.
        fresh: shape, token facts and seed of a model to measure before its first step.
        sampler: asks the held vLLM engine for texts; None where only log-probabilities are asked for.
    """

    def __init__(self, path: str, fresh: tuple[Shape, dict[str, Any], int] | None = None, sampler: Any = None) -> None:
        self._path, self._fresh, self._sampler = path, fresh, sampler
        self._model: Any = None
        self._tokenizer: Any = None

    def logprob_sums(self, tokens: list[Any], masks: list[Any]) -> list[float]:
        """Sum of log-probabilities over each row's counted tokens, in nats."""
        import torch

        if self._model is None:
            shape = self._fresh
            self._model = shape[0].build(shape[1], shape[2]) if shape else load_model(self._path)
            # Ray hides the GPUs that were not asked for
            self._model.to("cuda" if torch.cuda.is_available() else "cpu").eval()
        sums: list[float] = []
        with torch.no_grad():
            for at in range(0, len(tokens), MICRO):
                padded = pad(tokens[at : at + MICRO], masks[at : at + MICRO], 0, next(self._model.parameters()).device)
                sums += (token_logprobs(self._model, padded).double() * padded.weight_BT).sum(1).tolist()
        return sums

    def answers(self, prompts: list[list[int]], max_tokens: int) -> list[str]:
        """Greedy answers as text."""
        return self._sampler(prompts, max_tokens)

    def text(self, tokens: Any) -> str:
        """Tokens as text, without special tokens."""
        if self._tokenizer is None:
            self._tokenizer = load_tokenizer(self._path)
        return self._tokenizer.decode(tokens, skip_special_tokens=True)


def grade_logprobs(path: str, fresh: tuple[Shape, dict[str, Any], int] | None, tasks: list[tuple[Any, str]]) -> dict[str, float]:
    """All log-probability tasks of one model; runs on a worker. `tasks`: card and URI of its rows."""
    examinee = Examinee(path, fresh)
    grades: dict[str, float] = {}
    for card, uri in tasks:
        grades |= card.grade(examinee, Rows.open(uri, "held_out"))
    return grades
