"""Takes token shards, leaves how soon the first batch is there and how many rows a second follow: raylm's Rows and Batches
against torch's DataLoader over the same rows in `datasets` (map style, DistributedSampler). One process per rank, alternating,
medians; rates are per second of CPU time, so that a busy machine does not change them. The goal is a start under one second,
also where a billion rows are claimed."""

from __future__ import annotations

import hashlib
import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

SHARDS, ROWS, LENGTH = 4, 8192, 1024
BATCH, MICRO, STEPS, ROUNDS, WORLDS = 256, 8, 60, 3, (1, 2, 4)
CLAIMED = 10**9


def make(root: Path) -> None:
    """The same random rows as an artifact of tokenize and as a `datasets` folder."""
    import datasets
    import numpy as np
    import pyarrow as pa

    from raylm.core.artifact import Tokens
    from raylm.data.shards import write_arrow
    from tests.stages import context

    ctx, counts, tables = context(root, "tokens"), {}, []
    for shard in range(SHARDS):
        flat = np.random.default_rng(shard).integers(0, 50_000, ROWS * LENGTH).astype(np.int32)
        table = pa.table({"tokens": pa.FixedSizeListArray.from_arrays(pa.array(flat), LENGTH)})
        write_arrow(ctx.out, f"train-{shard:05d}.arrow", table)
        counts[f"train-{shard:05d}.arrow"] = ROWS
        tables.append(table)
    ctx.commit(Tokens, facts={"pad_token_id": 0}, rows=counts)
    datasets.Dataset(pa.concat_tables(tables)).save_to_disk(str(root / "datasets"))  # type: ignore[arg-type]


def ours(root: str, rank: int, world: int) -> Any:
    """Micro batches of one rank, step by step; opening is part of the start."""
    from raylm.data.shards import Rows
    from raylm.train.batches import Batches

    rows = Rows.open(f"{root}/tokens", "train")
    batches = Batches(rows, "Tokens", batch=BATCH, micro=MICRO, seed=0, pad_id=0, rank=rank, world=world)
    for step in range(10**9):
        for micro in batches.at(step):
            yield micro.tokens_BT


def theirs(root: str, rank: int, world: int) -> Any:
    """The same by DataLoader, in this process: a worker process per rank would want cores that the ranks have."""
    import datasets
    from torch.utils.data import DataLoader, DistributedSampler

    rows: Any = datasets.load_from_disk(f"{root}/datasets").with_format("torch")
    sampler = DistributedSampler(rows, num_replicas=world, rank=rank, shuffle=True, seed=0)
    for epoch in range(10**9):
        sampler.set_epoch(epoch)
        for batch in DataLoader(rows, batch_size=MICRO, sampler=sampler):
            yield batch["tokens"]


def rank_main(who: str, root: str, rank: int, world: int) -> None:
    """One rank's process: prints start seconds, CPU seconds for the rest, rows, and what the first two steps hold."""
    import pyarrow  # noqa: F401
    import torch

    import raylm.train.batches  # noqa: F401

    # imports are not measured, on neither side
    if who == "theirs":
        import datasets  # noqa: F401

    torch.set_num_threads(1)
    started = time.perf_counter()
    source = {"ours": ours, "theirs": theirs}[who](root, rank, world)
    next(source)
    start_s, begun = time.perf_counter() - started, time.process_time()
    passes = STEPS * BATCH // world // MICRO
    for _ in range(passes):
        next(source)
    spent = time.process_time() - begun
    # what two steps hold, by row: the ranks of any world must hold the same together
    seen = []
    again = {"ours": ours, "theirs": theirs}[who](root, rank, world)
    for _ in range(2 * BATCH // world // MICRO):
        seen += [hashlib.sha256(row.numpy().tobytes()).hexdigest()[:16] for row in next(again)]
    print(json.dumps({"start_s": start_s, "seconds": spent, "rows": passes * MICRO, "seen": seen}))


def timed(who: str, root: Path, world: int) -> tuple[float, float, str]:
    """(slowest start in s, rows per CPU second over all ranks, digest of what the first two steps hold)."""
    command = [sys.executable, "-m", "tests.bench.loader", who, str(root)]
    ranks = [
        subprocess.Popen([*command, str(rank), str(world)], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
        for rank in range(world)
    ]
    said = [json.loads(rank.communicate()[0].strip().splitlines()[-1]) for rank in ranks]
    held = hashlib.sha256("".join(sorted(row for each in said for row in each["seen"])).encode()).hexdigest()
    rate = sum(each["rows"] for each in said) / sum(each["seconds"] for each in said)
    return max(each["start_s"] for each in said), rate, held


def claimed() -> float:
    """Seconds to the row numbers of a batch in the middle of CLAIMED rows, in a fresh Python, numpy's import included."""
    code = f"""import time; t = time.perf_counter()
from raylm.data.order import batch_indices
batch_indices({CLAIMED}, {BATCH}, 1_000_000, 0); print(time.perf_counter() - t)"""
    return float(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout)


def main() -> None:
    import datasets
    import torch

    starts: dict[tuple[str, int], list[float]] = {}
    rates: dict[tuple[str, int], list[float]] = {}
    held: dict[str, set[str]] = {"ours": set(), "theirs": set()}
    with tempfile.TemporaryDirectory() as temporary:
        make(Path(temporary))
        for world in WORLDS:
            for _ in range(ROUNDS):
                for who in ("ours", "theirs"):
                    start_s, rate, digest = timed(who, Path(temporary), world)
                    starts.setdefault((who, world), []).append(start_s)
                    rates.setdefault((who, world), []).append(rate)
                    held[who].add(digest)
                    print(
                        f"{who} {world} ranks: start {start_s:.3f} s, {rate:,.0f} rows per CPU second",
                        flush=True,
                    )
    claimed_s = statistics.median(claimed() for _ in range(3))
    rate = {key: round(statistics.median(values)) for key, values in rates.items()}
    start = {key: round(statistics.median(values), 4) for key, values in starts.items()}
    slowest = max(start["ours", world] for world in WORLDS)
    quality = {
        "same_rows_for_1_2_4_ranks": len(held["ours"]) == 1,
        "start_s": slowest,
        "start_s_theirs": max(start["theirs", world] for world in WORLDS),
        f"start_s_at_{CLAIMED:.0e}_rows": round(claimed_s, 4),
        "tokens_per_cpu_s": {world: rate["ours", world] * LENGTH for world in WORLDS},
        "tokens_per_cpu_s_theirs": {world: rate["theirs", world] * LENGTH for world in WORLDS},
    }
    ratio = round(min(rate["ours", world] / rate["theirs", world] for world in WORLDS), 2)
    print(
        json.dumps(
            {
                "name": "loader",
                "peer": "torch DataLoader over datasets, DistributedSampler",
                "peer_version": f"torch {torch.__version__}, datasets {datasets.__version__}",
                "ours": rate["ours", 1],
                "theirs": rate["theirs", 1],
                "unit": f"rows of {LENGTH} tokens per CPU second, one rank; ratio: the smallest over {WORLDS} ranks",
                "ratio": ratio,
                "goal": 1.0,
                "quality": quality,
                "ok": ratio >= 1.0 and quality["same_rows_for_1_2_4_ranks"] and max(slowest, claimed_s) < 1.0,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        rank_main(sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4]))
    else:
        main()
