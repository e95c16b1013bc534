"""The `compress` stage: writes a Checkpoint in another format, rounded or as it is, on one worker, and records both sizes."""

from __future__ import annotations

from typing import Any

from raylm.compress.config import Compress
from raylm.compress.formats.source import Rounded, Source, Written
from raylm.compress.methods.rounding import Ranges, measure_ranges
from raylm.core.artifact import Checkpoint, Dialogues, Tokens
from raylm.core.config import card_kind, resolve
from raylm.core.context import Context
from raylm.core.errors import ConfigError, DataError
from raylm.core.storage import Folder
from raylm.core.workers import finish_task, start_task
from raylm.data.shards import Rows
from raylm.model.checkpoint import num_parameters
from raylm.model.limits import positions
from raylm.model.load import checkpoint_path, load_model, load_tokenizer
from raylm.model.same_tokens import other_tokens

DEADLINE_S = 24 * 3600.0


def run(cfg: Compress, ctx: Context) -> Checkpoint:
    """Compress on one worker. Raises ConfigError when method or format does not fit the model's shape."""
    ctx.workers.check_room(cfg.roles(), ctx.stage)
    rows: Tokens | Dialogues | None = None
    if cfg.calibration:
        found = ctx.open(cfg.calibration)
        assert isinstance(found, (Tokens, Dialogues))
        rows = found
    path = checkpoint_path(ctx, cfg.model)
    work = start_task(compress, cfg.workers, cfg, path, rows.uri if rows else None, ctx.out.uri)
    written: Written = finish_task(work, cfg.workers, DEADLINE_S, ctx.stage)
    facts = {"base_model": cfg.model, **written.facts}
    if cfg.rounds:
        facts["method"] = card_kind(cfg.method)
    if ctx.is_stage(cfg.model):
        facts = {**ctx.open(cfg.model).facts, **facts}
    return ctx.commit(Checkpoint, variant=written.variant, facts=facts, metrics=written.metrics)


def compress(cfg: Compress, path: str, rows_uri: str | None, out: str) -> Written:
    """Runs on the worker: rounds the weights at `path` where the format holds rounded ones, and writes them to `out`."""
    rounded = _rounded(cfg, path, rows_uri) if cfg.rounds else None
    return resolve(cfg.format).write(Source(path, rounded), Folder(out))


def _rounded(cfg: Compress, path: str, rows_uri: str | None) -> Rounded:
    model: Any = load_model(path, "auto", plain=True).eval()
    count, before = num_parameters(model), sum(p.numel() * p.element_size() for p in model.parameters())
    dtype_before = model.dtype
    method: Any = resolve(cfg.method)
    ranges = {}
    if "calibration" in getattr(method, "needs", ()):
        if rows_uri is None:
            raise ConfigError(f"method {card_kind(cfg.method)} needs `calibration`: a stage that makes Tokens or Dialogues")
        ranges = _measure(cfg, model, path, rows_uri)
    return Rounded(model, method.apply(model.cpu(), ranges), count, before, dtype_before)


def _measure(cfg: Compress, model: Any, path: str, rows_uri: str) -> Ranges:
    """Activation ranges on the calibration rows. Raises DataError when they are not the model's."""
    import torch

    model.to("cuda" if torch.cuda.is_available() else "cpu")
    rows = Rows.open(rows_uri, "train")
    picked = [rows[index] for index in range(min(cfg.calibration_rows, len(rows)))]
    if why := other_tokens(picked, load_tokenizer(Folder(rows_uri).path("tokenizer")), load_tokenizer(path)):
        raise DataError(f"calibration rows are of another tokenizer than the model's: {why}", where=rows_uri)
    tokens = [row["tokens"][: positions(model.config.to_dict())] for row in picked if len(row["tokens"])]
    if not tokens:
        raise DataError("there are no rows to calibrate on", where=rows_uri)
    return measure_ranges(model, tokens)
