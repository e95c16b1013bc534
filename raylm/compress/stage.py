"""Takes a Checkpoint, leaves a smaller one: measures, rounds and writes on one worker, records both sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from raylm.compress.config import Compress
from raylm.compress.methods.rounding import measure_ranges
from raylm.core.artifact import WORK, Checkpoint, Dialogues, Tokens
from raylm.core.config import resolve
from raylm.core.context import Context
from raylm.core.errors import ConfigError
from raylm.core.storage import Folder
from raylm.core.workers import wait_for
from raylm.data.shards import Rows
from raylm.model.checkpoint import publish
from raylm.model.load import checkpoint_path, load_model, load_tokenizer

DEADLINE_S = 24 * 3600.0


def run(cfg: Compress, ctx: Context) -> Checkpoint:
    """Compress on one worker. Raises ConfigError when the method does not fit the model's shape."""
    import ray

    ctx.workers.check_room(cfg.workers, "compress")
    rows: Tokens | Dialogues | None = None
    if cfg.calibration:
        found = ctx.open(cfg.calibration)
        assert isinstance(found, (Tokens, Dialogues))
        rows = found
    path = checkpoint_path(ctx, cfg.model)
    work = ray.remote(num_cpus=cfg.workers.cpus, num_gpus=cfg.workers.gpus, max_retries=2)(compress)
    before, after = wait_for(work.remote(cfg, path, rows.uri if rows else None, ctx.out.uri), DEADLINE_S, "compress")
    facts = {"base_model": cfg.model, "method": cfg.method.kind, "quantized": True}
    if ctx.is_stage(cfg.model):
        facts = {**ctx.open(cfg.model).facts, **facts}
    return ctx.commit(
        Checkpoint, facts=facts, metrics={"bytes_before": before, "bytes_after": after, "size_ratio": round(before / after, 3)}
    )


def compress(cfg: Compress, path: str, rows_uri: str | None, out: str) -> tuple[int, int]:
    """Runs on the worker; returns bytes of weights before and after."""
    import torch

    model: Any = load_model(path, "auto", plain=True).eval()
    before = sum(p.numel() * p.element_size() for p in model.parameters())
    method: Any = resolve(cfg.method)
    ranges = {}
    if method.needs_calibration:
        if rows_uri is None:
            raise ConfigError(f"method {cfg.method.kind} needs `calibration`: a stage that makes Tokens or Dialogues")
        model.to("cuda" if torch.cuda.is_available() else "cpu")
        rows = Rows.open(rows_uri, "train")
        ranges = measure_ranges(model, [rows[index]["tokens"] for index in range(min(cfg.calibration_rows, len(rows)))])
    compressor = method.apply(model.cpu(), ranges)
    folder = Folder(out)
    with tempfile.TemporaryDirectory(prefix=".compressed-", dir=(folder / WORK).make().uri if folder.is_local else None) as at:
        model.save_pretrained(at)
        compressor.update_config(at)
        load_tokenizer(path).save_pretrained(at)
        publish(Path(at), folder)
        after = sum(file.stat().st_size for file in Path(at).glob("*.safetensors"))
    return before, after
