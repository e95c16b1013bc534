"""Takes nanochat's CPU setting (depth 4, heads of 64, rows of 256, batches of 4,096 tokens, 4,096 kinds of tokens, 60 steps),
leaves what raylm makes of it: seconds to the first step, tokens per second, loss at 245,760 tokens.

nanochat itself is no package and is not fetched; its figures on two cores of this kind are those that were measured for
commit 92d63d4 (loss 5.54 at 245,760 tokens, 84.5 s to the first step, 4,000 to 4,100 tokens/s). Its text was another, so losses
compare roughly: here it is English of the same kind, tokenized to as many kinds of tokens by byte-level BPE. Both compile.
"""

from __future__ import annotations

import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

THEIRS = {"loss": 5.54, "first_step_s": 84.5, "tokens_per_s": 4050.0}
STEPS, ROWS, LENGTH = 60, 16, 256


def main() -> None:
    from raylm import job
    from raylm.core import toml

    started = time.perf_counter()
    with tempfile.TemporaryDirectory() as at:
        data = {
            "name": "nanochat",
            "root": at,
            "stages": {
                "corpus": {"stage": "prepare", "source": _source(), "workers": {"count": 2}},
                "tokens": {"stage": "tokenize", "documents": "corpus", "tokenizer": {"kind": "bpe", "vocab_size": 4096},
                           "form": {"kind": "text", "length": LENGTH}, "held_out": 0.02, "workers": {"count": 2}},
                "base": {"stage": "train", "rows": "tokens", "batch": ROWS, "micro_batch": ROWS, "steps": STEPS,
                         "compile": True,
                         # three matrices of a gated layer with the weights of nanochat's two of 256 x 1024
                         "model": {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 688,
                                   "max_length": LENGTH, "tie_embeddings": False},
                         "optimizer": {"kind": "muon", "lr": 0.02, "lr_rest": 6e-3, "weight_decay": 0.1, "warmup": 4,
                                       "schedule": "wsd", "decay": 0.65, "floor": 0.05},
                         "strategy": {"kind": "ddp"}, "workers": {"count": 1, "cpus": os.cpu_count() or 1}},
            },
        }  # fmt: skip
        loaded = toml.check(job.Job, data, toml.Source("nanochat_speed", ""))
        made = job.run(loaded)["base"]
        rows = [json.loads(line) for line in Path(made.folder.path("metrics.jsonl")).read_text().splitlines()]
        spent = made.manifest.seconds
    trained = sum(row["step_s"] for row in rows)
    speed = sorted(row["tokens_per_s"] for row in rows[5:])[len(rows[5:]) // 2]
    last = sum(row["loss"] for row in rows[-3:]) / 3
    # everything of the stage that is no step: workers, model, held-out losses before and after, export
    first = spent - trained
    print(
        json.dumps(
            {
                "name": "nanochat_speed",
                "peer": "nanochat (its measured figures, not run here)",
                "peer_version": "92d63d4",
                "ours": round(speed, 1),
                "theirs": THEIRS["tokens_per_s"],
                "unit": "tokens/s",
                "ratio": round(speed / THEIRS["tokens_per_s"], 3),
                "goal": 1.0,
                "first_step_s": {"ours, at most": round(first, 1), "theirs": THEIRS["first_step_s"]},
                "loss at 245,760 tokens": {"ours": round(last, 3), "theirs": THEIRS["loss"]},
                "whole_s": round(time.perf_counter() - started, 1),
                "quality": {
                    "held_out_loss": round(made.metrics["held_out_loss_after"], 3),
                    "losses": [r["loss"] for r in rows[::10]],
                },
                "ok": speed >= THEIRS["tokens_per_s"] and last <= THEIRS["loss"] and first < 20,
            }
        )
    )


def _source() -> dict[str, Any]:
    """RAYLM_TEXT names a glob of text files; without it the text that every Python carries is taken."""
    if "RAYLM_TEXT" in os.environ:
        return {"kind": "text", "glob": os.environ["RAYLM_TEXT"]}
    return {"kind": "python_library", "max_bytes": 12_000_000}


if __name__ == "__main__":
    sys.exit(main())
