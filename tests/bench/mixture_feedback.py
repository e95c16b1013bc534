"""Takes jobs/mixture.toml, leaves what a model of four times a proxy's size loses on the mixture that proxies chose against the
natural one, both trained here side by side, and how well losses of mixtures that were never fitted were ranked.

`python -m tests.bench.mixture_feedback [PROXIES] [UNSEEN] [STEPS] [FOLDER]`: 24, 8, 300 as they stand; 6 2 60 is a short form,
whose figures prove nothing but that it runs. The same FOLDER goes on where it was.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

GOAL_LOSS, GOAL_RANK, GOAL_S = 0.98, 0.9, 40 * 60


def main() -> None:
    proxies, unseen, steps = ([int(word) for word in sys.argv[1:4]] + [24, 8, 300][len(sys.argv[1:4]) :])[:3]
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(sys.argv[4]) if len(sys.argv) > 4 else Path(made)
        told = run(folder, proxies, unseen, steps)
    print(json.dumps(told))


def run(folder: Path, proxies: int, unseen: int, steps: int) -> dict[str, Any]:
    from raylm.cli import _parser
    from raylm.core import toml
    from raylm.mixture import tune

    words = ["--proxies", str(proxies), "--unseen", str(unseen), "--steps", str(steps), "--set", f"root={folder}"]
    # a short form has too few proxies to be sure of anything: it shows what it found all the same
    words += ["--min-rank", "0.7" if proxies >= 12 else "-1"]
    arguments = _parser().parse_args(["tune-mixture", "jobs/mixture.toml", "base", *words])
    data, source = toml.read(arguments.job)
    tuning = tune.Tune(toml.override(data, arguments.set), source, arguments)
    tune._same(tuning, False)
    tuning.make_inputs()
    started = time.monotonic()
    found = tune.tuned(tuning, arguments)
    print("\n".join(found.lines), found.refused, flush=True)
    tuned_s = time.monotonic() - started
    large = trained(tuning, arguments, found, steps)
    seconds = time.monotonic() - started
    weights = {name: 1 / len(large["chosen"].losses) for name in large["chosen"].losses}
    chosen, natural = (sum(weights[name] * loss for name, loss in large[which].losses.items()) for which in ("chosen", "natural"))
    best_random = min(found.measured[1:])
    ranks = found.unseen_ranks if found.unseen_ranks is not None else float("nan")
    ok = chosen <= GOAL_LOSS * natural and ranks >= GOAL_RANK and seconds <= GOAL_S and not found.refused
    return {
        "name": "mixture_feedback",
        "peer": "the natural mixture",
        "peer_version": f"{large['natural'].parameters:,} parameters, {large['natural'].steps} steps",
        "ours": round(chosen, 4),
        "theirs": round(natural, 4),
        "unit": "held-out nats per token, every source alike",
        "ratio": round(natural / chosen, 4),
        "goal": round(1 / GOAL_LOSS, 4),
        "quality": {
            "rank correlation on mixtures that were never fitted": None if np.isnan(ranks) else round(ranks, 3),
            "rank correlation on left-out proxies": round(found.ranks, 3),
            "chosen proxy against the best random one": [round(found.chosen_loss or float("nan"), 4), round(best_random, 4)],
        },
        "losses": {which: {name: round(loss, 4) for name, loss in one.losses.items()} for which, one in large.items()},
        "shares": dict(zip(("reference", "docstrings", "sources"), found.shares, strict=True)),
        "natural": [round(share, 3) for share in found.proxies[0].shares],
        "proxies": proxies,
        "unseen": unseen,
        "steps": steps,
        "proxy_parameters": found.proxies[0].parameters,
        "seconds": {"proxies and choice": round(tuned_s), "whole": round(seconds)},
        "refused": found.refused,
        "ok": bool(ok),
    }


def trained(tuning: Any, arguments: argparse.Namespace, found: Any, steps: int) -> dict[str, Any]:
    """The stage's own model, four times a proxy and more, on both mixtures with four times a proxy's tokens."""
    from raylm.core.artifact import open_artifact
    from raylm.mixture.pool import Pool
    from raylm.mixture.proxy import order_of
    from raylm.train.stage import prepared

    targets = tuning.targets(open_artifact(tuning.job.folder("reference")))
    ctx, orders = tuning.context({}, []), []
    for name, shares in (("natural", found.proxies[0].shares), ("chosen", found.shares)):
        cfg = tuning.proxy(shares, 2048).model_copy(update={"model": tuning.cfg.model, "steps": 4 * steps})
        ready, setup, _ = prepared(cfg, ctx)
        at = tuning.folder / "large" / name
        setup = setup.model_copy(update={"out": at.uri, "work": (at / "steps").uri})
        orders.append(order_of(f"large-{name}", ready, setup, targets, arguments.rows, "cpu"))
    with Pool((tuning.folder / "proxies").make(), 2, 1) as pool:
        natural, chosen = pool.train(orders, lambda result: print(f"{result.name}: {result.losses}", flush=True))
    return {"natural": natural, "chosen": chosen}


if __name__ == "__main__":
    main()
