"""The `tokenize` stage: Documents to Tokens, Dialogues, Pairs, Unpaired, Labelled or Prompts, with the tokenizer that made them.

tokenizer: trained or taken -> every document shard on its own: split, encode, write (marked) -> manifest
"""

from __future__ import annotations

import os
from collections import Counter
from functools import partial
from typing import TYPE_CHECKING, Any

from raylm.core.artifact import KINDS, Artifact, Documents
from raylm.core.context import Context
from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.lineage import index_name
from raylm.data.marks import Plain, run_marked
from raylm.data.records import is_held_out
from raylm.data.shards import read_parquet, shard_name, write_arrow, write_parquet
from raylm.model.chat_template import sha256_of
from raylm.tokenize import tokenizers
from raylm.tokenize.config import Tokenize
from raylm.tokenize.fertility import fertility, rates
from raylm.tokenize.report import print_lost, write_report

if TYPE_CHECKING:
    import pyarrow as pa

SPLITS = ("train", "held_out")


def run(cfg: Tokenize, ctx: Context) -> Artifact:
    """Make the rows.

    Facts: rows {split: count}, num_tokens (train), vocab_size, length, eos_token_id, bos_token_id, pad_token_id, dropped
    {reason: count}; Tokens also have bytes, held_out_bytes, held_out_tokens, and over both splits bytes_per_token and encoder
    {which: documents}; rendered rows chat_template_sha256; packed
    rows have packing {kind, crop_share, pad_share, documents_per_row} (over both splits).

    Raises:
        DataError: the tokenizer does not fit the form, or no train row comes out.
    """
    documents = ctx.open_as(cfg.documents, Documents)
    trained = tokenizers.place(cfg, ctx, documents)
    tokenizer = tokenizers.load((ctx.out / tokenizers.FOLDER).local())
    cfg.form.check(tokenizer)
    units = [{"path": entry.path, "digest": entry.digest} for entry in documents.shards("documents-")]
    work = partial(_tokenize, cfg, documents.folder, ctx.out)
    marks = run_marked(ctx, "tokens", units, work, cfg.workers, "shards")
    sums = {split: Counter[str]() for split in SPLITS}
    dropped, rows = Counter[str](), {}
    for mark in marks:
        dropped.update(mark["dropped"])
        for split in SPLITS:
            sums[split].update(mark[split]["sums"])
            if mark[split]["rows"]:
                rows[mark[split]["shard"]] = mark[split]["rows"]
    if not sums["train"]["rows"]:
        raise _nothing(cfg, sums, dropped, documents)
    facts = _facts(cfg, tokenizer, sums, dropped) | trained
    costs = rates(mark["fertility"] for mark in marks)
    ctx.out.write_json("fertility.json", costs)
    lengths = Counter[str]()
    for mark in marks:
        lengths.update(mark["lengths"])
    write_report(ctx.out, ctx.stage, facts, tokenizer, rows, rates=costs, lengths=lengths)
    metrics = {
        "rows": facts["rows"]["train"],
        "held_out": facts["rows"]["held_out"],
        "num_tokens": facts["num_tokens"],
        "vocab_size": facts["vocab_size"],
        "dropped": sum(dropped.values()),
    }
    artifact = ctx.commit(KINDS[cfg.makes().kind], facts=facts, metrics=metrics, rows=rows)
    print_lost(ctx.stage, facts)
    return artifact


def _tokenize(cfg: Tokenize, source: Folder, out: Folder, at: int, plain: Plain) -> Plain:
    """One document shard to one shard per split; runs in a worker."""
    import pyarrow as pa

    # as many shards at once as there are workers: threads on top would compete for the same cores
    os.environ["TOKENIZERS_PARALLELISM"] = "false"
    tokenizer = tokenizers.load((out / tokenizers.FOLDER).local())
    table = read_parquet(source, plain["path"])
    held_out = pa.array([is_held_out(id, cfg.held_out) for id in table["id"].to_pylist()], pa.bool_())
    dropped, indices, mark = Counter[str](), [], {}
    for split in SPLITS:
        mask = held_out if split == "held_out" else pa.array([not held for held in held_out.to_pylist()], pa.bool_())
        result = cfg.form.rows(tokenizer, table.filter(mask))
        name = shard_name(split, at, "arrow")
        if result.table.num_rows:
            write_parquet(out, index_name(name), result.index)
            write_arrow(out, name, result.table)
        dropped.update(result.dropped)
        indices.append(result.index)
        mark[split] = {"shard": name, "rows": result.table.num_rows, "sums": {**result.sums, "rows": result.table.num_rows}}
    mark["dropped"] = {reason: count for reason, count in dropped.items() if count}
    return mark | _costs(table, pa.concat_tables(indices))


def _costs(documents: pa.Table, index: pa.Table) -> Plain:
    """Tokens that documents cost, by source, and how many documents have 2^k to 2^(k+1) - 1 of them; special ones included."""
    import numpy as np

    texts = dict(zip(documents["id"].to_pylist(), documents["text"].to_pylist(), strict=True))
    sizes = index["num_tokens"].to_numpy()
    spent = fertility(index["source"].to_pylist(), [texts[id] for id in index["id"].to_pylist()], np.cumsum([0, *sizes]))
    counts = np.bincount(np.log2(np.maximum(sizes, 1)).astype(int))
    return {"fertility": spent, "lengths": {str(k): int(count) for k, count in enumerate(counts) if count}}


def _facts(cfg: Tokenize, tokenizer: Any, sums: dict[str, Counter[str]], dropped: Counter[str]) -> dict[str, Any]:
    train, held_out = sums["train"], sums["held_out"]
    facts = {
        "form": cfg.form.kind,
        "length": cfg.form.length,
        "rows": {split: sums[split]["rows"] for split in SPLITS},
        "documents": {split: sums[split]["documents"] for split in SPLITS},
        "num_tokens": train["tokens"],
        "held_out_tokens": held_out["tokens"],
        "vocab_size": len(tokenizer),
        "eos_token_id": tokenizer.eos_token_id,
        "bos_token_id": tokenizer.bos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        "dropped": dict(sorted(dropped.items())),
    }
    if cfg.form.renders_chat:
        facts["chat_template_sha256"] = sha256_of(tokenizer.chat_template)
    facts |= cfg.form.facts(train, held_out)
    if packing := getattr(cfg.form, "packing", None):
        facts["packing"] = {"kind": packing, **_packed(cfg.form.length, train + held_out)}
    return facts


def _packed(length: int, sums: Counter[str]) -> dict[str, float]:
    """Share of tokens whose document lies in several pieces, share of the rows that is empty, pieces per row."""
    return {
        "crop_share": round(sums["cut_tokens"] / max(sums["tokens"] + sums["lost_tokens"], 1), 4),
        "pad_share": round(sums["pad_tokens"] / max(sums["rows"] * length, 1), 6),
        "documents_per_row": round(sums["pieces"] / max(sums["rows"], 1), 2),
    }


def _nothing(cfg: Tokenize, sums: dict[str, Counter[str]], dropped: Counter[str], documents: Documents) -> DataError:
    reasons = ", ".join(f"{reason} {count}" for reason, count in sorted(dropped.items())) or "no documents in the train split"
    count = sum(sums[split]["documents"] for split in SPLITS)
    return DataError(
        f"no {cfg.form.kind} row comes out of {count} documents: {reasons}", where=documents.uri, next=cfg.form.remedy
    )
