"""Takes what the driver found out about a stage, leaves it to the ranks: where things lie, how long the run is."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from raylm.core.config import Config
from raylm.parallel.checkpoints.steps import Keeping

if TYPE_CHECKING:
    from raylm.train.config import Train


class Setup(Config):
    """What the driver resolved for the ranks: where things lie and how long the run is."""

    rows_uris: list[str]
    """Artifacts of rows, several where they are mixed."""
    num_rows: list[int]
    """Training rows of each."""
    rows_kind: str
    model_path: str | None
    tokenizer_path: str
    tokens: dict[str, Any]
    """Facts of the rows: vocab_size, bos_token_id, eos_token_id, pad_token_id."""
    steps: int
    out: str
    work: str


def keeping_of(cfg: Train) -> Keeping:
    """Which step checkpoints of a run stay; the one that may be exported is among them."""
    return Keeping(cfg.keep, max(cfg.keep_best, cfg.export == "best"), cfg.keep_every)
