"""What the driver resolves of a stage for its ranks."""

from __future__ import annotations

from typing import Any

from raylm.core.config import Config


class Teacher(Config):
    """A frozen model that answers beside the one that learns, and what is known of it before it is loaded."""

    ref: str
    """As the job names it."""
    path: str
    dtype: str


class Setup(Config):
    """Where things lie and how long the run is."""

    rows_uris: list[str]
    """Artifacts of rows or prompts, several where they are mixed."""
    num_rows: list[int]
    """Training rows of each."""
    rows_kind: str
    tokens: dict[str, Any]
    """Facts of the rows: vocab_size, bos_token_id, eos_token_id, pad_token_id."""
    model_path: str | None
    """Weights to start from; None for a new model."""
    tokenizer_path: str
    teacher: Teacher | None = None
    """Who answers beside the model, where an objective needs that."""
    scores: list[str] = []
    """Where scores of the rows lie that were made ahead (`raylm.trainer.stored_scores`), for each artifact of rows."""
    steps: int
    """Length of the run, and of the learning rate's schedule."""
    out: str
    work: str
