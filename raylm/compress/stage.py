"""The `compress` stage: a method works on a checkpoint, a format writes it; on one worker. Both sizes are recorded.

checkpoint -> [method, on calibration rows] -> format -> files -> loaded again -> KL to the original on held rows
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from raylm.compress.calibration import Calibration
from raylm.compress.config import Compress
from raylm.compress.consumers.prompts import stored_prompts
from raylm.compress.drift import drift
from raylm.compress.formats.source import Changed, Source, Written
from raylm.compress.kv_cache import KvCache
from raylm.compress.methods.applied import Applied
from raylm.core.artifact import Artifact, Checkpoint
from raylm.core.config import card_kind
from raylm.core.context import Context
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.core.workers import finish_task, start_task
from raylm.model.checkpoint import num_parameters
from raylm.model.licence import licence_of
from raylm.model.load import checkpoint_path, load_model
from raylm.model.model_card import model_card

DEADLINE_S = 24 * 3600.0


def run(cfg: Compress, ctx: Context) -> Checkpoint:
    """Compress on one worker. Raises ConfigError when method or format does not fit the model's shape."""
    ctx.workers.check_room(cfg.roles(), ctx.stage)
    rows: Artifact | None = ctx.open(cfg.calibration) if cfg.calibration else None
    path = checkpoint_path(ctx, cfg.model)
    asked = ctx.open(cfg.prompts).uri if cfg.prompts else None
    work = start_task(compress, cfg.workers, cfg, path, rows.uri if rows else None, ctx.out.uri, asked)
    written: Written = finish_task(work, cfg.workers, DEADLINE_S, ctx.stage)
    facts = {"base_model": cfg.model, **written.facts}
    if method := cfg.cards()[0]:
        facts["method"] = card_kind(method)
    if ctx.is_stage(cfg.model):
        facts = {**ctx.open(cfg.model).facts, **facts}
    beside: dict[str, Callable[[Checkpoint], str]] = {}
    if written.variant.startswith("export:"):
        facts["use"] = cfg.cards()[1].next_step(ctx.stage)
        at, named = Path(path), getattr(cfg.cards()[1], "license", None)
        licence = licence_of(at, named).key if at.is_dir() else named
        beside["README.md"] = lambda made: model_card(made, ctx.stage, licence, None, False)
    return ctx.commit(Checkpoint, variant=written.variant, facts=facts, metrics=written.metrics, beside=beside)


def compress(cfg: Compress, path: str, rows_uri: str | None, out: str, prompts_uri: str | None = None) -> Written:
    """Runs on the worker: lets the method work on the weights at `path`, and writes them to `out`."""
    method, written = cfg.cards()
    prompts = tuple(stored_prompts(prompts_uri, written.parity_prompts)) if prompts_uri else ()
    if method is None and cfg.kv_cache is None:
        return written.write(Source(path, prompts=prompts), Folder(out))
    model: Any = load_model(path, "auto", plain=True).eval()
    calibration = None
    if rows_uri is not None:
        calibration = Calibration.open(rows_uri, path, model.config, cfg.calibration_rows, cfg.held_rows)
    changed = _changed(method, cfg.kv_cache, model, calibration)
    done: Written = written.write(Source(path, changed, prompts), Folder(out))
    if calibration is None or not calibration.held:
        return done
    # behind the writing: rounded layers unpack their weights when they first run
    held = calibration.batches(rows=calibration.held)
    return done._replace(metrics={**done.metrics, **drift(load_model(path, "auto", plain=True), changed.model, held)})


def _changed(method: Any, kv_cache: KvCache | None, model: Any, calibration: Calibration | None) -> Changed:
    import torch

    count, before = num_parameters(model), sum(p.numel() * p.element_size() for p in model.parameters())
    dtype_before = model.dtype
    if kv_cache or "calibration" in getattr(method, "needs", ()):
        if calibration is None:
            asks = "kv_cache" if kv_cache else f"method {card_kind(method)}"
            raise ConfigError(f"{asks} needs `calibration`: the name of a stage that makes rows")
        model.to("cuda" if torch.cuda.is_available() else "cpu")
    applied: Applied = method.apply(model, calibration) if method else Applied()
    model = model if applied.model is None else applied.model
    seen = kv_cache.measure(model, calibration, applied.compressor) if kv_cache and calibration else {}
    model = model.cpu()
    if kv_cache:
        applied = kv_cache.apply(model, applied, seen)
    return Changed(model, applied.compressor, count, before, dtype_before, applied.facts, applied.metrics)
