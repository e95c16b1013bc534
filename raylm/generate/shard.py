"""One shard of completions: its table, its rejected rows, its mark."""

from __future__ import annotations

import json
from collections import Counter
from typing import TYPE_CHECKING, Any

from raylm.core.errors import DataError
from raylm.core.storage import Folder
from raylm.data.marks import Plain
from raylm.data.messages import Dialogue
from raylm.data.records import as_text, record_json, schema
from raylm.data.shards import shard_name, write_parquet
from raylm.generate.asked import Asked
from raylm.generate.config import Generate

if TYPE_CHECKING:
    import pyarrow as pa

EXAMPLES = 3
_SHOWN_CHARS = 300


def write_shard(cfg: Generate, out: Folder, number: int, rows: list[Asked], outcomes: list[Any]) -> Plain:
    """Write what became of the rows of a unit; its mark.

    Args:
        outcomes: of each row its completions as plain values (see `outcome_of`), or the word for why there are none.
    """
    import pyarrow as pa

    made, lost = [], []
    sums, ends, reasons = Counter[str](), Counter[str](), Counter[str]()
    for asked, outcome in zip(rows, outcomes, strict=True):
        if isinstance(outcome, str):
            lost.append((asked, -1, outcome, ""))
            continue
        sums["prompt_tokens"] += len(asked.tokens)
        for place, completion in enumerate(outcome):
            sums["completion_tokens"] += completion["tokens"]
            if reason := _refused(cfg, completion):
                lost.append((asked, place, reason, completion["text"]))
                continue
            try:
                made.append(document(cfg, asked, place, completion))
            except DataError as cause:
                # beside the messages stands what a row of dialogues must not have
                lost.append((asked, place, cause.what, completion["text"]))
                continue
            ends[completion["finish_reason"]] += 1
    for _, _, reason, _ in lost:
        reasons[reason] += 1
    shards, rejected = {}, []
    if made:
        name = shard_name("documents", number, "parquet")
        size = write_parquet(out, name, pa.Table.from_pylist(made, schema=columns()))
        shards = {name: len(made)}
        sums |= {"bytes": sum(len(row["text"].encode()) for row in made), "file_bytes": size}
    if lost:
        rejected = [f"rejected-{number:05d}.jsonl"]
        lines = [json.dumps(_rejected(*one), ensure_ascii=False) for one in lost]
        out.write(rejected[0], "\n".join([*lines, ""]))
    examples: dict[str, list[str]] = {}
    for asked, _, reason, _ in lost:
        examples.setdefault(reason, []).append(f"{asked.source}:{asked.start}")
    return {
        "asked": len(rows),
        "lost": sum(cfg.sampling.n if place < 0 else 1 for _, place, _, _ in lost),
        "shards": shards,
        "rejected_files": rejected,
        "rejected": dict(sorted(reasons.items())),
        "examples": {reason: places[:EXAMPLES] for reason, places in sorted(examples.items())},
        "finish_reasons": dict(sorted(ends.items())),
        "sums": dict(sorted(sums.items())),
    }


def columns() -> pa.Schema:
    """Columns of the result: those of Documents and, of each completion, its prompt and text, both in tokens, how it ended,
    the mean log-probability of its tokens where they were drawn from, the row that was asked about, and its place among the
    completions of that row."""
    import pyarrow as pa

    more = [
        ("prompt", pa.large_string()),
        ("completion", pa.large_string()),
        ("prompt_tokens", pa.int32()),
        ("completion_tokens", pa.int32()),
        ("finish_reason", pa.string()),
        ("mean_logprob", pa.float32()),
        ("row_id", pa.string()),
        ("draw", pa.int32()),
    ]
    return pa.schema([*schema(), *more])


def document(cfg: Generate, asked: Asked, place: int, completion: Plain) -> Plain:
    """One line of the result. Source and range are those of the raw row, so that lineage goes on through the model; its id
    is the row's and the place among its completions: all of one row are held out together."""
    text, record = completion["text"], None
    if cfg.keep == "continuation":
        text = asked.prompt + text
    elif cfg.keep == "dialogue":
        turns: Dialogue = [*(asked.turns or []), {"role": "assistant", "content": text}]
        row = {"messages": turns, **asked.beside}
        text, record = as_text(row), record_json(row)
    return {
        "id": f"{asked.id}-{place}",
        "source": asked.source,
        "start": asked.start,
        "end": asked.end,
        "text": text,
        "record": record,
        "meta": asked.meta,
        "prompt": asked.prompt,
        "completion": completion["text"],
        "prompt_tokens": len(asked.tokens),
        "completion_tokens": completion["tokens"],
        "finish_reason": completion["finish_reason"],
        "mean_logprob": completion["mean_logprob"],
        "row_id": asked.id,
        "draw": place,
    }


def _refused(cfg: Generate, completion: Plain) -> str:
    """Why a completion is not kept, "" where it is."""
    if not completion["text"].strip():
        return "empty_completion"
    if completion["finish_reason"] == "length":
        if cfg.sampling.structure:
            return "structure_cut_off"
        if cfg.cut_off == "reject":
            return "cut_off"
    return ""


def _rejected(asked: Asked, place: int, reason: str, text: str) -> Plain:
    found: Plain = {"reason": reason, "row": asked.id, "where": f"{asked.source}:{asked.start}"}
    if place >= 0:
        found |= {"draw": place, "completion": text[:_SHOWN_CHARS]}
    return found | {"prompt_tokens": len(asked.tokens), "prompt": asked.prompt[:_SHOWN_CHARS]}
