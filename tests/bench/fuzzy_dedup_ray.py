"""Takes documents with planted near copies as JSON Lines, leaves how long fuzzy deduplication takes on a Ray that runs
already: data-juicer's ray_bts_minhash_deduplicator against the prepare stage with `min_hash`, both on 2 CPUs and word
5-grams (theirs 14 bands of 8, ours 20 and what they link compared), from files to files. Alternating, medians; how right
both are, by exact similarity. RAYLM_BENCH_MB=200."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from pathlib import Path

from tests.bench.near_copies.making import megabytes, write
from tests.bench.near_copies.peers import python_of, timed
from tests.bench.near_copies.truth import Truth

GOAL, CPUS = 5.0, 2
ROUNDS = int(os.environ.get("RAYLM_BENCH_ROUNDS", "1"))

RECIPE = """
project_name: bench
executor_type: ray
ray_address: local
dataset_path: {source}
export_path: {at}/out
work_dir: {at}/work
np: {cpus}
text_keys: text
process:
  - ray_bts_minhash_deduplicator:
      tokenization: space
      window_size: 5
      num_permutations: 112
      num_bands: 14
      num_rows_per_band: 8
"""

# what their log calls `All Ops are done in`: reading, the operator, writing
THEIRS = """
import sys, ray
ray.init(address="local", num_cpus={cpus}, include_dashboard=False, log_to_driver=False)
from data_juicer.config import init_configs
from data_juicer.core.executor.ray_executor import RayExecutor
RayExecutor(init_configs(["--config", sys.argv[1]])).run(skip_return=True)
"""

OURS = """
import sys, time
from pathlib import Path
from raylm.core.workers import Workers
from raylm.prepare.config import Prepare
from tests.stages import run_stage

workers = Workers()
workers.ensure()
cfg = Prepare.model_validate_json(sys.argv[2])
started = time.perf_counter()
run_stage(Path(sys.argv[1]), "documents", cfg, workers)
print("ops_s", time.perf_counter() - started)
workers.stop()
"""


def theirs(python: Path, source: Path, at: Path) -> tuple[float, set[int]]:
    """Seconds of the operators, and the numbers of the documents that stayed."""
    at.mkdir()
    (at / "recipe.yaml").write_text(RECIPE.format(source=source, at=at, cpus=CPUS))
    _, said = timed([python, "-c", THEIRS.format(cpus=CPUS), at / "recipe.yaml"], RAY_DEDUP_LOGS="0")
    kept = {int(json.loads(line)["id"]) for path in (at / "out").rglob("*.json*") for line in path.open()}
    return float(said.rsplit("All Ops are done in", 1)[1].split("s.")[0]), kept


def ours(source: Path, at: Path) -> tuple[float, set[int]]:
    """Seconds of the stage, and the numbers of the documents that stayed."""
    import pyarrow.parquet as pq

    size = sum(path.stat().st_size for path in source.glob("*.jsonl"))
    table = {
        "stage": "prepare",
        "source": {"kind": "jsonl", "glob": f"{source}/*.jsonl", "split_bytes": min(64 << 20, size // 4)},
        "dedup": [{"kind": "min_hash", "fold": ["numbers", "operators"]}],
        "workers": {"count": CPUS},
    }
    at.mkdir()
    _, said = timed([sys.executable, "-c", OURS, at, json.dumps(table)])
    kept = {
        int(json.loads(meta)["id"])
        for path in (at / "documents").glob("documents-*.parquet")
        for meta in pq.read_table(path, columns=["meta"])["meta"].to_pylist()
    }
    return float(said.rsplit("ops_s", 1)[1].split()[0]), kept


def main() -> None:
    python = python_of("data-juicer", "py-data-juicer[distributed]==1.6.1")
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        made = write(work / "in", megabytes())
        truth = Truth(made)
        ours(work / "in", work / "compiles")  # the first run of all compiles the kernels, once for this machine
        seconds: dict[str, list[float]] = {"ours": [], "theirs": []}
        quality = {}
        for lap in range(ROUNDS):
            for name, run in (("ours", ours), ("theirs", lambda source, at: theirs(python, source, at))):
                spent, kept = run(work / "in", work / f"{name}-{lap}")
                seconds[name].append(spent)
                quality[name] = truth.quality(kept)
                print(f"{name}: {spent:.1f} s {quality[name]}", flush=True)
    wall = {name: round(statistics.median(spent), 2) for name, spent in seconds.items()}
    ratio = wall["theirs"] / wall["ours"]
    right = {f"{key}_{name}": quality[name][key] for key in ("recall", "false", "kept") for name in ("ours", "theirs")}
    good = right["recall_ours"] >= right["recall_theirs"] and right["false_ours"] <= right["false_theirs"]
    print(
        json.dumps(
            {
                "name": "fuzzy_dedup_ray",
                "peer": "data-juicer, ray_bts_minhash_deduplicator",
                "peer_version": "1.6.1",
                **wall,
                "unit": f"s from files to files with Ray running, {megabytes():g} MB, {len(made):,} documents, {CPUS} CPUs",
                "ratio": round(ratio, 2),
                "goal": GOAL,
                "quality": right,
                "ok": good and ratio >= GOAL,
            }
        )
    )


if __name__ == "__main__":
    main()
