"""Speculation by a small model, such as one that was distilled from the one that answers."""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated, Any, Literal

from pydantic import Field

from raylm.core.config import Config, Refers
from raylm.core.errors import ConfigError


class DraftModel(Config):
    """A small model proposes tokens one by one, the large one checks them all in one step (https://arxiv.org/abs/2211.17192)."""

    kind: Literal["draft_model"] = "draft_model"
    """Name of this card."""
    model: Annotated[str, Refers(("Checkpoint",), ("causal",))]
    """The small model: a stage of this job, or a folder or URI; with the tokenizer of the large one. `train` with objective
    `distill` makes it."""
    num_tokens: int = Field(default=3, ge=1, le=32)
    """Tokens that are proposed, and checked in one step of the model."""

    def at(self, find: Callable[[str], str]) -> DraftModel:
        """This card with what `find` says in place of a stage's name: where the small model lies."""
        return self.model_copy(update={"model": find(self.model)})

    def speculative_config(self, model: str) -> dict[str, Any]:
        """vLLM's `speculative_config` for the checkpoint in the folder `model`.

        Raises:
            ConfigError: the two have other tokens.
        """
        from raylm.model.load import on_this_machine

        draft = on_this_machine(self.model)
        refuse_other_tokens(model, draft)
        return {"method": "draft_model", "model": draft, "num_speculative_tokens": self.num_tokens}


def refuse_other_tokens(model: str, draft: str) -> None:
    """Raises ConfigError where token ids of the checkpoint in the folder `draft` mean something else than those of `model`: its
    proposals would be other words, and be refused one by one without a word."""
    from raylm.inference.engine_dtype import network_of
    from raylm.model.load import load_tokenizer

    def refuse(why: str) -> None:
        raise ConfigError(
            f"the draft model cannot propose tokens for this model: {why}",
            where=f"engine.speculation.model = {draft}",
            next=f"distil one from {model}, with its tokenizer",
        )

    sizes = [_vocab_size(network_of(each)) for each in (model, draft)]
    if None not in sizes and sizes[0] != sizes[1]:
        refuse(f"its vocabulary has {sizes[1]} tokens, the model's {sizes[0]}")
    large, small = (load_tokenizer(each) for each in (model, draft))
    ours, theirs = large.get_vocab(), small.get_vocab()
    if ours != theirs:
        token = min(set(ours.items()) ^ set(theirs.items()), key=lambda item: item[1])[0]
        refuse(f"its token {token!r} has the id {theirs.get(token)}, the model's {ours.get(token)}")


def _vocab_size(config: dict[str, Any]) -> int | None:
    return config.get("vocab_size") or (config.get("text_config") or {}).get("vocab_size")
