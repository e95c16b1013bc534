"""Takes the same rows, model and steps, leaves tokens per second of raylm (a train stage under Ray; with compiled blocks too),
of a bare loop written by hand, of transformers' Trainer and of litgpt: processes of their own, alternating, one process and
two, medians of rounds."""

from __future__ import annotations

import json
import os
import socket
import statistics
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.near_copies.peers import timed
from tests.bench.pretrain import lit, work

ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "3"))
# litgpt and what it imports, beside this environment's torch
LITGPT = ("litgpt==0.5.13", "lightning==2.6.6", "pytorch-lightning", "lightning-utilities", "torchmetrics", "jsonargparse")
LITGPT_NEEDS = ("typeshed-client", "docstring-parser")


def main() -> None:
    with tempfile.TemporaryDirectory() as at:
        work.make_tokens(Path(at))
        found: dict[str, list[dict[str, Any]]] = {}
        for turn in range(ROUNDS):
            for world in (1, 2):
                for name in ("bare", "ours", "trainer", *(("lit", "compiled") if world == 1 else ())):
                    made = contestant(name, world, at)
                    found.setdefault(f"{name} {world}", []).append(made)
                    print(f"round {turn}, {name}, {world} processes: {made['tokens_per_s']:.0f} tokens/s", flush=True)
    speed = {name: statistics.median(one["tokens_per_s"] for one in made) for name, made in found.items()}
    pairs = zip(found["ours 1"][0]["losses"], found["bare 1"][0]["losses"], strict=True)
    far = max(abs(left - right) for left, right in pairs)
    alike = abs(found["ours 2"][0]["losses"][-1] - found["ours 1"][0]["losses"][-1])
    limit = {world: _limit(found[f"ours {world}"], found[f"bare {world}"]) for world in (1, 2)}
    last = {name: made[0]["losses"][-1] for name, made in found.items()}
    # litgpt compiles its model; Trainer and the bare loop do not
    ratios = {"trainer": speed["ours 1"] / speed["trainer 1"], "litgpt": speed["compiled 1"] / speed["lit 1"]}
    ratio = min(ratios.values())
    print(
        json.dumps(
            {
                "name": "pretrain_speed",
                "peer": "transformers Trainer, litgpt",
                "peer_version": f"{_version('transformers')}, 0.5.13",
                "ours": {"as trainer": round(speed["ours 1"], 1), "compiled, as litgpt": round(speed["compiled 1"], 1)},
                "theirs": {"trainer": round(speed["trainer 1"], 1), "litgpt": round(speed["lit 1"], 1)},
                "unit": "tokens/s",
                "ratio": round(ratio, 3),
                "goal": 1.0,
                "ratios": {name: round(value, 3) for name, value in ratios.items()},
                "limit_ratio": round(min(limit.values()), 3),
                "limit_ratios": {f"{w} processes": round(value, 3) for w, value in limit.items()},
                "speeds": {name: round(value, 1) for name, value in speed.items()},
                "quality": {"largest loss difference to the bare loop": far, "1 to 2 processes": alike, "last losses": last},
                "ok": far < 1e-3 and alike < 1e-3 and ratio >= 1.0 and min(limit.values()) >= 0.97,
            }
        )
    )


def _limit(ours: list[dict[str, Any]], bare: list[dict[str, Any]]) -> float:
    """Runs of a round follow each other, and are compared with each other: what else the machine does changes with time."""
    return statistics.median(o["tokens_per_s"] / b["tokens_per_s"] for o, b in zip(ours, bare, strict=True))


def contestant(name: str, world: int, root: str) -> dict[str, Any]:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    if name == "lit":
        _, printed = timed([sys.executable, "-m", "tests.bench.pretrain.lit"], PYTHONPATH=f"{os.getcwd()}:{_litgpt()}")
        return lit.read(printed)
    is_ours = name in ("ours", "compiled")
    arguments = ["ours", str(world), root, *([name] if name == "compiled" else [])] if is_ours else [name, str(world), port]
    _, printed = timed([sys.executable, "-m", f"tests.bench.pretrain.{arguments[0]}", *arguments[1:]])
    return json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith('{"tokens_per_s"')))


def _litgpt() -> str:
    """A folder with litgpt's own packages, made when it is not there; torch and transformers are this environment's."""
    import subprocess

    home = Path(os.environ.get("RAYLM_PEERS", Path.home() / ".cache" / "raylm" / "peers")) / "litgpt"
    if not (home / "litgpt").exists():
        command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--target", str(home)]
        subprocess.run([*command, *LITGPT, *LITGPT_NEEDS], check=True)
    return str(home)


def _version(name: str) -> str:
    from importlib.metadata import version

    return version(name)


if __name__ == "__main__":
    main()
