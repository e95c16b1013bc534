"""Takes corpora of 1x, 4x and 16x, leaves seconds and peak memory per document of reading and fuzzy deduplication (a plot in
runs/bench/), and what a billion documents would take on 1, 10 and 100 nodes, from constants measured in the same run.
Each size in a process of its own, Ray and its workers warm. RAYLM_BENCH_MB=200 is the size of 16x."""

from __future__ import annotations

import json
import sys
import tempfile
import threading
import time
from collections import Counter
from pathlib import Path
from typing import Any

from raylm.core.workers import Workers
from raylm.prepare.config import Prepare
from raylm.prepare.corpus import Corpus, Shard, View
from raylm.prepare.dedup.min_hash import MinHash
from tests.bench.near_copies.making import megabytes, write
from tests.bench.near_copies.peers import timed
from tests.stages import context, run_stage

GROWTH, GOAL, CPUS = (1, 4, 16), 1.2, 2
UNIT_BYTES = 4 << 20
# what the simulation takes for a node: nothing here is measured
NODE_CORES, NODE_BYTES_S, DOCUMENTS = 16, 1e9, 1_000_000_000
# above a million documents the edges are in more than one partition, and components take rounds of two passes; near copies
# make short chains, so these are few
ROUNDS = 4
PASSES = ("read", "sign", "edges", "groups", "send", "verify")


class Timed(Corpus):
    """A corpus that notes how long each pass takes."""

    seconds: Counter[str]

    def map(self, name: str, units: list, work: Any, unit: str = "shards") -> list:
        started = time.perf_counter()
        done = super().map(name, units, work, unit)
        self.seconds[name] += time.perf_counter() - started
        return done


class Memory:
    """Peak of the memory of this process and all below it, each shared page counted once; looked at ten times a second."""

    def __init__(self) -> None:
        self.peak, self._over = 0, threading.Event()
        self._thread = threading.Thread(target=self._watch, daemon=True)
        self._thread.start()

    def _watch(self) -> None:
        import psutil

        while not self._over.wait(0.1):
            total = 0
            for process in [psutil.Process(), *psutil.Process().children(recursive=True)]:
                try:
                    total += process.memory_full_info().pss
                except psutil.Error:
                    continue  # ended meanwhile
            self.peak = max(self.peak, total)

    def stop(self) -> int:
        self._over.set()
        self._thread.join()
        return self.peak


def prepare(source: Path) -> Prepare:
    """Reading alone: its shards are what the sweep is then given."""
    return Prepare.model_validate(
        {
            "stage": "prepare",
            "source": {"kind": "jsonl", "glob": f"{source}/*.jsonl", "split_bytes": UNIT_BYTES},
            "workers": {"count": CPUS},
        }
    )


def swept(root: Path, source: Path, workers: Workers) -> dict[str, Any]:
    """Read, then sweep: documents, seconds by pass, bytes of the files between passes by name."""
    started = time.perf_counter()
    made = run_stage(root, "documents", prepare(source), workers)
    spent = Counter({"read": time.perf_counter() - started})
    ctx, shards = context(root, "sweep", None, workers), []
    for entry in made.shards("documents-"):
        first = shards[-1].first + shards[-1].rows if shards else 0
        shards.append(Shard(made.folder, entry.path, entry.rows or 0, first))
    corpus = Timed(ctx, prepare(source).workers, View(tuple(shards)), ctx.work / "0-min_hash", "")
    corpus.seconds = spent
    MinHash().sweep(corpus)
    sizes: Counter[str] = Counter()
    for name in corpus.scratch.files():
        sizes[name.split("-")[0]] += corpus.scratch.size(name)
    return {"documents": corpus.view.num_rows, "seconds": dict(spent), "bytes": dict(sizes)}


def child(source: Path) -> None:
    """One size: the line of `found` says what `swept` did, and the peak beyond what was held before."""
    workers = Workers()
    with tempfile.TemporaryDirectory() as scratch:
        (Path(scratch) / "warm").mkdir()
        swept(Path(scratch) / "warm", source.parent / "warm", workers)
        idle = Memory()
        time.sleep(1)
        before, memory = idle.stop(), Memory()
        (Path(scratch) / "run").mkdir()
        found = swept(Path(scratch) / "run", source, workers)
        print("found", json.dumps(found | {"peak_bytes": memory.stop(), "idle_bytes": before}))
    workers.stop()


def simulated(found: dict[str, Any], nodes: int) -> dict[str, Any]:
    """A billion documents on `nodes`: each pass takes the longer of its work on all cores and its files over all disks.

    Seconds of a pass here times CPUs are its work, start-up of tasks included. A file between passes is written once and
    read once. A worker holds at its peak what it did here or a partition while it is sorted, whichever is more.
    """
    scale = DOCUMENTS / found["documents"]
    moved = {"sign": ["keys"], "edges": ["keys", "large"], "groups": ["large", "groups"], "send": ["groups", "sets"]}
    moved["verify"] = ["sets", "decisions"]
    hours = {}
    for name in PASSES:
        work = found["seconds"][name] * CPUS * scale / (nodes * NODE_CORES)
        files = sum(found["bytes"].get(kind, 0) for kind in moved.get(name, ())) * scale / (nodes * NODE_BYTES_S)
        hours[name] = max(work, files) / 3600
    # each of its passes reads and writes the edges and does what `groups` does with them
    hours["components"] = hours["groups"] * 2 * ROUNDS
    moves = sum(found["bytes"].values()) + found["bytes"].get("large", 0) * 2 * ROUNDS
    worker = max((found["peak_bytes"] - found["idle_bytes"]) / CPUS, 3 * (128 << 20))
    return {
        "nodes": nodes,
        "memory_per_node_gb": round(NODE_CORES * worker / 1e9, 1),
        "shuffle_tb": round(moves * scale / 1e12, 3),
        "hours": {name: round(spent, 3) for name, spent in hours.items()},
        "total_hours": round(sum(hours.values()), 2),
    }


def plot(runs: list[dict[str, Any]], at: Path) -> None:
    """Seconds and memory per document over the number of documents."""
    import matplotlib

    matplotlib.use("Agg")
    import matplotlib.pyplot as plt

    documents = [run["documents"] for run in runs]
    figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.5))
    for name in PASSES:
        left.plot(documents, [1e6 * run["seconds"][name] / run["documents"] for run in runs], marker="o", label=name)
    left.set(xscale="log", xlabel="documents", ylabel="microseconds per document", ylim=(0, None))
    left.legend()
    held = [(run["peak_bytes"] - run["idle_bytes"]) / 1e3 / run["documents"] for run in runs]
    right.plot(documents, held, marker="o")
    right.set(xscale="log", xlabel="documents", ylabel="kB per document at the peak", ylim=(0, None))
    figure.tight_layout()
    at.parent.mkdir(parents=True, exist_ok=True)
    figure.savefig(at, dpi=120)


def main() -> None:
    runs = []
    with tempfile.TemporaryDirectory() as scratch:
        work = Path(scratch)
        write(work / "warm", 1.0)
        for times in GROWTH:
            write(work / f"{times}", megabytes() * times / GROWTH[-1], seed=times)
            if times == GROWTH[0]:
                timed(
                    [sys.executable, "-m", "tests.bench.data_growth", work / f"{times}"]
                )  # compiles the kernels, once for this machine
            _, said = timed([sys.executable, "-m", "tests.bench.data_growth", work / f"{times}"])
            runs.append(json.loads(said.rsplit("found ", 1)[1].splitlines()[0]))
            print(f"{times}x: {runs[-1]}", flush=True)
    for run in runs:
        run["us_per_document"] = round(1e6 * sum(run["seconds"].values()) / run["documents"], 1)
        run["peak_kb_per_document"] = round((run["peak_bytes"] - run["idle_bytes"]) / 1e3 / run["documents"], 2)
    picture = Path("runs") / "bench" / "data_growth.png"
    plot(runs, picture)
    estimate = [simulated(runs[-1], nodes) for nodes in (1, 10, 100)]
    for line in estimate:
        print(f"1e9 documents, {line}", flush=True)
    ratio = runs[-1]["us_per_document"] / runs[0]["us_per_document"]
    print(
        json.dumps(
            {
                "name": "data_growth",
                "peer": "itself at 1x",
                "peer_version": "",
                "ours": runs[-1]["us_per_document"],
                "theirs": runs[0]["us_per_document"],
                "unit": f"us per document at 16x ({runs[-1]['documents']:,} documents) and 1x, {CPUS} CPUs",
                "ratio": round(1 / ratio, 2),
                "goal": round(1 / GOAL, 2),
                "peak_kb_per_document": [run["peak_kb_per_document"] for run in runs],
                "plot": str(picture),
                "simulated": estimate,
                "ok": ratio <= GOAL,
            }
        )
    )


if __name__ == "__main__":
    child(Path(sys.argv[1])) if len(sys.argv) > 1 else main()
