"""Config of the `tokenize` stage."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Discriminator, Field, Tag

from raylm.core.config import DocumentsRef, Makes, StageConfig, WorkerSpec, ref_or_table
from raylm.tokenize.forms import AnyForm
from raylm.tokenize.trainers import AnyTrainer
from raylm.tokenize.trainers.extend import TokenizerRef


class Tokenize(StageConfig):
    """Documents to rows of tokens in one form."""

    figures = ("rows", "held_out", "num_tokens", "vocab_size", "dropped")

    stage: Literal["tokenize"] = "tokenize"
    documents: DocumentsRef
    """The Documents to tokenize."""
    tokenizer: Annotated[Annotated[TokenizerRef, Tag("ref")] | Annotated[AnyTrainer, Tag("table")], Discriminator(ref_or_table)]
    """A stage whose tokenizer is taken, a Hugging Face folder or hub name (with a / in it), or a table: one is trained here."""
    form: AnyForm
    """What the rows are for: text, dialogues, pairs, unpaired, labelled or prompts."""
    held_out: float = Field(default=0.02, ge=0, lt=1)
    """Share of documents kept for evaluation. A document's id decides, so it is on the same side in every stage."""
    workers: WorkerSpec = WorkerSpec(count=2)
    """Tasks that tokenize at the same time; no part of the stage's identity."""

    def makes(self) -> Makes:
        """What the form makes."""
        return Makes(self.form.makes())
