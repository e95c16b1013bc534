"""The `generate` stage: rows -> what a model writes to each -> Documents. A killed run goes on at the row where it was."""

from __future__ import annotations

import time
from collections import Counter
from pathlib import Path
from typing import Any

from raylm.core.artifact import Artifact, Documents
from raylm.core.context import Context
from raylm.core.errors import ConfigError, DataError
from raylm.data.marks import Plain, sweep
from raylm.data.shards import Rows
from raylm.generate.asked import Reader, units_of
from raylm.generate.config import Generate
from raylm.generate.draw import ENDS, Draw
from raylm.generate.render import Renderer
from raylm.inference.config import BatchGenerators
from raylm.inference.pool import MOST_SEQUENCES, Pool, hold_pool
from raylm.model.chat_template import other_template
from raylm.model.limits import config_of, positions
from raylm.model.load import checkpoint_path, load_tokenizer, on_this_machine
from raylm.model.same_tokens import other_tokens

_PROBED_ROWS = 256


def run(cfg: Generate, ctx: Context) -> Documents:
    """Draw all completions.

    Facts: rows (of the result), asked, completions, prompt_tokens, completion_tokens, finish_reasons, rejected {reason: count},
    rejected_examples {reason: places}, model, dtype (and why), keep.

    Raises:
        ConfigError: rows or settings do not fit the model.
        DataError: too many rows are rejected, or no completion is left.
        PlacementError: no generator is left.
    """
    began = time.monotonic()
    artifact, model = ctx.open(cfg.rows), checkpoint_path(ctx, cfg.model)
    tokenizer = load_tokenizer(model)
    _check_rows(artifact, model, tokenizer)
    sweep(ctx.out)
    room, max_len = _room(cfg, model)
    renderer = Renderer(tokenizer, cfg.template, cfg.system, cfg.chat and isinstance(artifact, Documents))
    spec = cfg.generator.at(lambda ref: checkpoint_path(ctx, ref))
    ctx.workers.check_room(cfg.roles(), ctx.stage)
    pool = _pool(cfg, spec, ctx, model, max_len)
    units = units_of(artifact, cfg.rows_per_shard, cfg.num_rows)
    window = 2 * spec.count * (2 * spec.max_num_seqs if spec.max_num_seqs else MOST_SEQUENCES)
    marks: list[Plain] | None = None
    try:
        drawing = Draw(cfg, ctx, pool, Reader(artifact, renderer), room, max(window // cfg.sampling.n, 1))
        marks = drawing.run(units)
    finally:
        if marks is None:
            # its requests would be answered on for nobody
            ctx.workers.release("generator")
    total = totals(marks or [])
    _remove_others(ctx, total)
    if not total["rows"]:
        listed = ", ".join(f"{reason} {count}" for reason, count in total["rejected"].items())
        raise DataError(f"no completion is left of {total['asked']:,} rows: {listed or 'there are none'}", where=artifact.uri)
    # of this attempt alone: what an earlier one drew took its own time
    seconds = time.monotonic() - began
    facts = {key: total[key] for key in ("rows", "asked", "finish_reasons", "rejected", "rejected_examples", "bytes")}
    facts |= {"model": model, "dtype": pool.dtype.name, "dtype_why": pool.dtype.why, "keep": cfg.keep}
    metrics = {key: total[key] for key in ("asked", "rows", "completions", "prompt_tokens", "completion_tokens")}
    metrics |= {"rejected": sum(total["rejected"].values()), "tokens_per_s": round(drawing.num_tokens / seconds, 1)}
    metrics |= {"ends_its_generator": total["rejected"].get(ENDS, 0), **pool.counts()}
    return ctx.commit(Documents, facts=facts, metrics=metrics, rows=total["shards"])


def totals(marks: list[Plain]) -> dict[str, Any]:
    """Sums over all marks; of examples the first few, in order."""
    sums, rejected, ends = Counter[str](), Counter[str](), Counter[str]()
    examples: dict[str, list[str]] = {}
    for mark in marks:
        sums.update(mark["sums"])
        rejected.update(mark["rejected"])
        ends.update(mark["finish_reasons"])
        for reason, places in mark["examples"].items():
            examples[reason] = (examples.get(reason, []) + places)[:3]
    shards = {name: rows for mark in marks for name, rows in mark["shards"].items()}
    return {
        "asked": sum(mark["asked"] for mark in marks),
        "rows": sum(shards.values()),
        "completions": sum(ends.values()),
        "shards": shards,
        "rejected_files": [name for mark in marks for name in mark["rejected_files"]],
        "rejected": dict(sorted(rejected.items())),
        "rejected_examples": dict(sorted(examples.items())),
        "finish_reasons": dict(sorted(ends.items())),
        **{name: sums[name] for name in ("prompt_tokens", "completion_tokens", "bytes")},
    }


def _room(cfg: Generate, model: str) -> tuple[int, int]:
    """Most tokens of a prompt, and of prompt and completion together. Raises ConfigError where none would fit."""
    most = positions(config_of(model))
    room = cfg.max_prompt if most is None else min(cfg.max_prompt, most - cfg.sampling.max_tokens)
    if room < 1:
        raise ConfigError(
            f"sampling.max_tokens = {cfg.sampling.max_tokens} leaves no room for a prompt: the model was made for {most} tokens",
            where=model,
            next="lower it",
        )
    return room, room + cfg.sampling.max_tokens


def _pool(cfg: Generate, spec: BatchGenerators, ctx: Context, model: str, max_len: int) -> Pool:
    pool = hold_pool(ctx.workers, spec)
    more: dict[str, Any] = {"skip_tokenizer_init": False} if cfg.sampling.reads_text else {}
    if cfg.sampling.structure:
        # as the endpoint has it: read as it goes, with bounded work, and no white space for small models to get lost in
        more["structured_outputs_config"] = {"backend": "guidance", "disable_any_whitespace": True}
    pool.start(model, max_len=max_len, dtype=cfg.dtype, seed=cfg.sampling.seed, **more)
    if pool.dtype.why:
        print(f"  the engines compute in {pool.dtype.name}, {pool.dtype.why}", flush=True)
    return pool


def _check_rows(artifact: Artifact, model: str, tokenizer: Any) -> None:
    """Raises ConfigError where rendered rows are of another tokenizer or chat template than the model's."""
    if isinstance(artifact, Documents):
        return
    splits = [Rows.open(artifact.uri, split) for split in ("train", "held_out")]
    rows = [part[at] for part in splits for at in range(min(len(part), _PROBED_ROWS))]
    why = other_tokens(rows, load_tokenizer(artifact.folder.path("tokenizer")), tokenizer)
    local = on_this_machine(model)
    if not why and Path(local).is_dir():
        why = other_template(artifact.facts, local)
    if why:
        raise ConfigError(
            f"the rows are of another tokenizer than the model's: {why}",
            where=artifact.uri,
            next="tokenize them with `tokenizer` set to this model",
        )


def _remove_others(ctx: Context, total: dict[str, Any]) -> None:
    """Files of an earlier attempt with other units."""
    ours = {*total["shards"], *total["rejected_files"]}
    for name in ctx.out.files():
        if name.startswith(("documents-", "rejected-")) and name not in ours:
            ctx.out.remove(name)
