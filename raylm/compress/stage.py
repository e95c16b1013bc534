"""The `compress` stage: measures, rounds and writes a Checkpoint on one worker, and records both sizes."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any, NamedTuple

from raylm.compress.config import Compress
from raylm.compress.coverage import left_in
from raylm.compress.methods.rounding import Ranges, measure_ranges
from raylm.core.artifact import WORK, Checkpoint, Dialogues, Tokens
from raylm.core.config import resolve
from raylm.core.context import Context
from raylm.core.errors import ArtifactError, ConfigError, DataError
from raylm.core.storage import Folder
from raylm.core.workers import finish_task, start_task
from raylm.data.shards import Rows
from raylm.model.checkpoint import num_parameters, publish, write_tokenizer
from raylm.model.limits import positions
from raylm.model.load import checkpoint_path, load_model, load_tokenizer
from raylm.model.same_tokens import other_tokens

DEADLINE_S = 24 * 3600.0
TOLD = "told.json"
# tokens with which a written checkpoint is compared with what is in memory, and by what part of the largest logit they may
# differ, by the bytes of a number: buffers that a cast leaves alone are made anew in the checkpoint's format
PROBE, SAME = 32, {4: 1e-3, 2: 2e-2}


def run(cfg: Compress, ctx: Context) -> Checkpoint:
    """Compress on one worker. Raises ConfigError when the method does not fit the model's shape."""
    ctx.workers.check_room({"worker": cfg.workers}, ctx.stage)
    rows: Tokens | Dialogues | None = None
    if cfg.calibration:
        found = ctx.open(cfg.calibration)
        assert isinstance(found, (Tokens, Dialogues))
        rows = found
    path = checkpoint_path(ctx, cfg.model)
    work = start_task(compress, cfg.workers, cfg, path, rows.uri if rows else None, ctx.out.uri)
    before, after = finish_task(work, cfg.workers, DEADLINE_S, ctx.stage)
    told = Told(**ctx.work.read_json(TOLD))
    facts = {"base_model": cfg.model, "method": cfg.method.kind, "quantized": True}
    facts |= {"rounded_share": told.rounded_share, "left": told.left, "dtype": told.dtype, "dtype_before": told.dtype_before}
    if ctx.is_stage(cfg.model):
        facts = {**ctx.open(cfg.model).facts, **facts}
    sizes = {"bytes_before": before, "bytes_after": after, "size_ratio": told.size_ratio}
    return ctx.commit(Checkpoint, variant="quantized", facts=facts, metrics={**sizes, "rounded_share": told.rounded_share})


class Told(NamedTuple):
    """What became of the weights, beside their bytes."""

    size_ratio: float
    """How many times smaller than the same parameters in `dtype`: what a change of dtype alone saves is not counted."""
    dtype_before: str
    dtype: str
    """Of what was not rounded."""
    rounded_share: float
    """Share of all parameters that are rounded."""
    left: dict[str, float]
    """Share of the parameters of each tensor that is not, those with less than a thousandth left out."""


def compress(cfg: Compress, path: str, rows_uri: str | None, out: str) -> tuple[int, int]:
    """Runs on the worker; returns bytes of weights before and after, and leaves what else is `Told` in the work folder."""
    model: Any = load_model(path, "auto", plain=True).eval()
    count, before = num_parameters(model), sum(p.numel() * p.element_size() for p in model.parameters())
    dtype_before = model.dtype
    method: Any = resolve(cfg.method)
    ranges = {}
    if "calibration" in method.needs:
        if rows_uri is None:
            raise ConfigError(f"method {cfg.method.kind} needs `calibration`: a stage that makes Tokens or Dialogues")
        ranges = _measure(cfg, model, path, rows_uri)
    compressor = method.apply(model.cpu(), ranges)
    folder = Folder(out)
    with tempfile.TemporaryDirectory(prefix=".compressed-", dir=(folder / WORK).make().uri if folder.is_local else None) as at:
        model.save_pretrained(at)
        compressor.update_config(at)
        write_tokenizer(path, Path(at))
        left = left_in(Path(at))
        if left.total() >= count:
            raise ConfigError(f"method {cfg.method.kind} rounded nothing of this model", where=path, next="serve it as it is")
        check_reload(model, at)
        publish(Path(at), folder)
        after = sum(file.stat().st_size for file in Path(at).glob("*.safetensors"))
    shares = {name: round(size / count, 4) for name, size in left.most_common() if size > count / 1000}
    ratio = before * model.dtype.itemsize / dtype_before.itemsize / after
    stored, kept = (str(dtype).removeprefix("torch.") for dtype in (dtype_before, model.dtype))
    told = Told(round(ratio, 3), stored, kept, round(1 - left.total() / count, 4), shares)
    (folder / WORK).write_json(TOLD, told._asdict())
    return before, after


def check_reload(model: Any, folder: str) -> None:
    """Raises ArtifactError when the checkpoint in `folder` loads as another model than the rounded one in memory."""
    import torch

    again: Any = load_model(folder).eval()
    length = min(PROBE, positions(model.config.to_dict()) or PROBE)
    ids = torch.arange(length)[None] * 7919 % model.get_input_embeddings().weight.shape[0]
    asked = {"input_ids": ids, **({"decoder_input_ids": ids} if model.config.is_encoder_decoder else {})}
    with torch.no_grad():
        ours, theirs = (each(**asked).logits.float() for each in (model, again))
    apart, largest = float((ours - theirs).abs().max()), float(ours.abs().max())
    if not apart <= SAME[model.dtype.itemsize] * largest:
        raise ArtifactError(
            f"transformers loads what was written as another model: logits differ by {apart:.3g} of {largest:.3g}",
            where=folder,
            next="serve the model as it is; this family cannot be compressed",
        )


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
