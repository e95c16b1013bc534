"""Takes documents with planted near copies as JSON Lines, leaves how long fuzzy deduplication takes from files to files:
datatrove's four MinHash stages with two workers (14 bands of 8, as FineWeb) against `raylm run` with `min_hash` (20 of 8,
and what they link compared), both on word 5-grams with numbers and operators
folded, as datatrove has it. Whole processes by wall clock, alternating, medians; the signature
stage beside it, one thread, by CPU; and how right both are, by exact similarity. RAYLM_BENCH_MB=400 (at 200
the start of Ray is more than half of our time), RAYLM_BENCH_ROUNDS=1."""

from __future__ import annotations

import json
import os
import shutil
import statistics
import sys
import tempfile
import time
from pathlib import Path

from tests.bench.near_copies.making import SHARDS, megabytes, write
from tests.bench.near_copies.peers import python_of, timed
from tests.bench.near_copies.truth import Truth

GOAL, SIGNATURE_GOAL = 25.0, 100.0
ROUNDS = int(os.environ.get("RAYLM_BENCH_ROUNDS", "1"))
PACKAGES = ("datatrove[processing,io]==0.10.1", "spacy")

THEIRS = """
import sys
from datatrove.executor import LocalPipelineExecutor as Local
from datatrove.pipeline.dedup import MinhashDedupSignature, MinhashDedupBuckets, MinhashDedupCluster, MinhashDedupFilter
from datatrove.pipeline.dedup.minhash import MinhashConfig
from datatrove.pipeline.readers import JsonlReader
from datatrove.pipeline.writers.jsonl import JsonlWriter
from datatrove.utils.hashing import HashConfig

source, at, tasks = sys.argv[1], sys.argv[2], int(sys.argv[3])
config = MinhashConfig(n_grams=5, num_buckets=14, hashes_per_bucket=8, hash_config=HashConfig(precision=64))
def run(name, pipeline, tasks, workers=2):
    Local(pipeline=pipeline, tasks=tasks, workers=workers, logging_dir=f"{at}/logs/{name}").run()
if __name__ == "__main__":
    run("sign", [JsonlReader(source), MinhashDedupSignature(output_folder=f"{at}/sign", config=config)], tasks)
    run("buckets", [MinhashDedupBuckets(input_folder=f"{at}/sign", output_folder=f"{at}/buckets", config=config)], 14)
    run("cluster", [MinhashDedupCluster(input_folder=f"{at}/buckets", output_folder=f"{at}/remove", config=config)], 1, 1)
    run("filter", [JsonlReader(source), MinhashDedupFilter(input_folder=f"{at}/remove"),
                   JsonlWriter(f"{at}/out", compression=None)], tasks)
"""

# one worker runs in this very process, so its CPU time is the stage's
THEIR_SIGNATURES = (
    THEIRS.split("def run")[0]
    + """
import time
started = time.process_time()
Local(pipeline=[JsonlReader(source), MinhashDedupSignature(output_folder=f"{at}/sign", config=config)], tasks=1, workers=1,
      logging_dir=f"{at}/logs").run()
print("cpu_s", time.process_time() - started)
"""
)

OURS = """
name = "bench"
root = "{at}"

[stages.documents]
stage = "prepare"
source = {{kind = "jsonl", glob = "{source}/*.jsonl", split_bytes = {split}}}
dedup = [{{kind = "min_hash", fold = ["numbers", "operators"]}}]
workers = {{count = 2}}
"""


def theirs(python: Path, source: Path, at: Path) -> tuple[float, set[int]]:
    """Wall seconds, and the numbers of the documents that stayed."""
    seconds, _ = timed([python, "-c", THEIRS, source, at, str(SHARDS)])
    kept = {int(json.loads(line)["id"]) for path in (at / "out").glob("*.jsonl") for line in path.open()}
    return seconds, kept


def ours(source: Path, at: Path) -> tuple[float, set[int]]:
    """Wall seconds, and the numbers of the documents that stayed."""
    import pyarrow.parquet as pq

    at.mkdir(parents=True, exist_ok=True)
    size = sum(path.stat().st_size for path in source.glob("*.jsonl"))
    # a few units for each of the two workers
    (at / "job.toml").write_text(OURS.format(at=at, source=source, split=min(64 << 20, size // 4)))
    seconds, _ = timed([sys.executable, "-m", "raylm", "run", at / "job.toml"])
    kept = {
        int(json.loads(meta)["id"])
        for path in (at / "bench" / "documents").glob("documents-*.parquet")
        for meta in pq.read_table(path, columns=["meta"])["meta"].to_pylist()
    }
    return seconds, kept


def signature_seconds(python: Path, source: Path, at: Path) -> tuple[float, float]:
    """CPU seconds of one thread for the signatures of one file, reading and writing them included: (ours, theirs)."""
    alone = at / "alone"
    alone.mkdir(parents=True)
    shutil.copy(source / "000.jsonl", alone)
    _, said = timed([python, "-c", THEIR_SIGNATURES, alone, at / "peer", "1"])
    spent = float(said.rsplit("cpu_s", 1)[1].split()[0])
    return own_signatures(alone / "000.jsonl", at / "own"), spent


def own_signatures(lines: Path, at: Path) -> float:
    """CPU seconds of the `sign` pass over the same documents as a Parquet shard, after one call that compiles it."""
    import pyarrow as pa

    from raylm.core.storage import Folder
    from raylm.data.records import document, schema
    from raylm.data.shards import write_parquet
    from raylm.prepare.corpus import Shard, View
    from raylm.prepare.dedup.fuzzy.passes import sign
    from raylm.prepare.dedup.min_hash import MinHash

    texts = [json.loads(line)["text"] for line in lines.open()]
    folder = Folder(at).make()
    table = pa.Table.from_pylist([document("a", row, row + 1, text) for row, text in enumerate(texts)], schema=schema())
    write_parquet(folder, "documents.parquet", table)
    view = View((Shard(folder, "documents.parquet", len(texts), 0),))
    card, spent = MinHash(), []
    for _ in range(4):
        started = time.process_time()
        sign(card.shingling, card.bands, card.rows, 0, view, folder, 2, 0, {})
        spent.append(time.process_time() - started)
    return statistics.median(spent[1:])


def main() -> None:
    python = python_of("datatrove", *PACKAGES)
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        made = write(work / "in", megabytes(400))
        truth = Truth(made)
        print(f"{len(made):,} documents, {(truth.similar >= 0.8).sum():,} pairs of 0.8 and more", flush=True)
        ours(work / "in", work / "compiles")  # the first run of all compiles the kernels, once for this machine
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        quality = {}
        for lap in range(ROUNDS):
            for name, run in (("ours", ours), ("theirs", lambda source, at: theirs(python, source, at))):
                spent, kept = run(work / "in", work / f"{name}-{lap}")
                seconds[name].append(spent)
                quality[name] = truth.quality(kept)
                print(f"{name}: {spent:.1f} s {quality[name]}", flush=True)
        own, peer = signature_seconds(python, work / "in", work / "signatures")
        wall = {name: round(statistics.median(spent), 2) for name, spent in seconds.items()}
        print(json.dumps(_result(made, wall, own, peer, quality)))


def _result(made: list[tuple[str, int]], wall: dict[str, float], own: float, peer: float, quality: dict) -> dict:
    size = sum(len(text.encode()) for text, _ in made)
    part = sum(len(text.encode()) for text, _ in made[: len(made) // SHARDS]) / 1e6
    ratio, signatures = wall["theirs"] / wall["ours"], peer / own
    right = {f"{key}_{name}": quality[name][key] for key in ("recall", "false", "kept") for name in ("ours", "theirs")}
    good = right["recall_ours"] >= right["recall_theirs"] and right["false_ours"] <= right["false_theirs"]
    return {
        "name": "fuzzy_dedup",
        "peer": "datatrove",
        "peer_version": "0.10.1",
        **wall,
        "unit": f"s from JSON Lines to documents, {size / 1e6:.0f} MB of text, {len(made):,} documents, 2 workers",
        "ratio": round(ratio, 2),
        "goal": GOAL,
        "signature_ours_mb_per_cpu_s": round(part / own, 1),
        "signature_theirs_mb_per_cpu_s": round(part / peer, 3),
        "signature_ratio": round(signatures, 1),
        "signature_goal": SIGNATURE_GOAL,
        "quality": right,
        "ok": good and ratio >= GOAL and signatures >= SIGNATURE_GOAL,
    }


if __name__ == "__main__":
    main()
