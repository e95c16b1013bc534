"""Takes the data stages of the quickstart (two prepare, four tokenize), leaves what they cost with their root in a bucket of a
local S3 server, against the same on a local disk: whole processes, alternating, seconds of the stages, and equal payload."""

from __future__ import annotations

import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.buckets import local_bucket

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "2"))
GOAL = 1.5
CORPUS_BYTES = int(os.environ.get("RAYLM_CORPUS_BYTES", "12_000_000"))
"""What the quickstart reads; less of it for a look."""
QUICKSTART = Path(__file__).resolve().parents[2] / "jobs" / "quickstart.toml"


def data_stages() -> str:
    """The quickstart as far as its data stages go."""
    text = QUICKSTART.read_text()
    return text[: text.index("# ---------------------------------------------------------------- training")]


def run(job: Path, root: str) -> dict[str, Any]:
    """One run: seconds of its stages and of the whole command, and the digests of what they made."""
    began = time.monotonic()
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "raylm",
            "run",
            str(job),
            "--set",
            f"root={root}",
            "--set",
            f"stages.corpus.source.max_bytes={CORPUS_BYTES}",
        ],
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    whole = time.monotonic() - began
    from raylm.core.storage import Folder

    manifests = {
        name: Folder(f"{root}/quickstart/{name}").read_json("manifest.json")
        for name in ("corpus", "questions", "tokens", "dialogues", "pairs", "prompts")
    }
    payload = {
        name: {file["path"]: file["digest"] for file in made["files"] if file["path"].endswith((".parquet", ".arrow"))}
        for name, made in manifests.items()
    }
    return {"by_stage": {name: made["seconds"] for name, made in manifests.items()}, "whole_s": whole, "payload": payload}


def main() -> None:
    found: dict[str, list[dict[str, Any]]] = {"disk": [], "s3": []}
    with tempfile.TemporaryDirectory() as folder, local_bucket("bench") as client:
        job = Path(folder) / "data.toml"
        job.write_text(data_stages())
        for number in range(ROUNDS):
            for name, root in (("disk", f"{folder}/{number}"), ("s3", f"s3://bench/{number}")):
                found[name].append(run(job, root))
                print(name, number, found[name][-1]["by_stage"], round(found[name][-1]["whole_s"], 1), flush=True)
        objects = sum(len(page.get("Contents", [])) for page in client.get_paginator("list_objects_v2").paginate(Bucket="bench"))
    equal = all(each["payload"] == found["disk"][0]["payload"] for runs in found.values() for each in runs)
    seconds = {name: statistics.median(sum(each["by_stage"].values()) for each in runs) for name, runs in found.items()}
    ratio = seconds["s3"] / seconds["disk"]
    print(
        json.dumps(
            {
                "name": "s3_root",
                "peer": "the same stages with their root on a local disk",
                "peer_version": "raylm",
                "ours": round(seconds["s3"], 1),
                "theirs": round(seconds["disk"], 1),
                "unit": "s of all data stages",
                "ratio": round(seconds["disk"] / seconds["s3"], 3),
                "goal": round(1 / GOAL, 3),
                "quality": {"the same payload": equal},
                "ok": equal and ratio <= GOAL,
                "times_as_long": round(ratio, 2),
                "whole_s": {name: [round(each["whole_s"], 1) for each in runs] for name, runs in found.items()},
                "by_stage": {name: runs[-1]["by_stage"] for name, runs in found.items()},
                "objects": objects,
                "corpus_bytes": CORPUS_BYTES,
                "load": os.getloadavg()[0],
            }
        )
    )


if __name__ == "__main__":
    main()
