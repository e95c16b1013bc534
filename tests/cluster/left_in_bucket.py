"""What a job of `job_on_hosts` has left in a bucket, for a test whose own process does not reach it: run it on a host.

python -m tests.cluster.left_in_bucket s3://runs/hosts     prints one line of JSON
"""

from __future__ import annotations

import json
import sys
from typing import Any

from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.data.shards import read_parquet
from raylm.rl.rollout_files import folder_of, iterations_in, read
from raylm.rl.sample_ledger import SAMPLES


def left(root: Folder) -> dict[str, Any]:
    """Documents, rows of prompts, steps, what became of each sample, and the manifests."""
    made = {name: root / name for name in root.names() if (root / name).exists("manifest.json")}
    found: dict[str, Any] = {"stages": {name: folder.read_json("manifest.json") for name, folder in made.items()}}
    found["locks"] = [name for name in root.names() if name.startswith(".lock")]
    if corpus := made.get("corpus"):
        files = [file for file in corpus.files() if file.startswith("documents-")]
        found["documents"] = [text for file in files for text in read_parquet(corpus, file)["text"].to_pylist()]
    if sft := made.get("sft"):
        found["steps"] = [row["step"] for row in read_metrics(sft) if "loss" in row]
    if policy := made.get("policy"):
        found["samples"] = read_parquet(policy, SAMPLES).to_pylist()
        rollouts = folder_of(policy)
        found["rollouts"] = {at: len(read(rollouts, at)) for at in iterations_in(rollouts)}
    return found


if __name__ == "__main__":
    print("left", json.dumps(left(Folder(sys.argv[1]))))
