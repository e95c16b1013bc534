"""Takes more ranks, longer rows and more GPUs, leaves how the cost of training grows: measured here from 1 to 8 ranks and from
256 to 16,384 tokens, forecast (the model of `raylm plan`) from 8 to 16,384 GPUs."""

from __future__ import annotations

import json
import os
import resource
import statistics
import sys
import time
from typing import Any

from tests.bench.near_copies.peers import timed

STEPS, WARM = 5, 2
LENGTHS, RANKS, GPUS = (256, 1024, 4096, 16_384), (1, 2, 4, 8), (8, 64, 512, 4096, 16_384)
# of the same tokens, so that only the length differs
TOKENS = 16_384
L70 = {
    "model_type": "llama", "hidden_size": 8192, "num_hidden_layers": 80, "num_attention_heads": 64, "num_key_value_heads": 8,
    "intermediate_size": 28_672, "vocab_size": 128_256,
}  # fmt: skip


def one(rank: int, world: int, length: int, rows: int) -> dict[str, float]:
    """Median CPU seconds of a step, losses and peak memory of one rank."""
    import numpy as np
    import torch

    from raylm.parallel.assemble import assemble
    from raylm.train.batches import Batches
    from raylm.train.config import Train

    facts = {"vocab_size": 1024, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": length}
    cfg = Train.model_validate(
        {
            "stage": "train", "rows": "r", "batch": rows, "micro_batch": max(1, rows // world), "steps": STEPS,
            "workers": {"count": world},
            "model": {"hidden_size": 128, "num_layers": 2, "num_heads": 4, "intermediate_size": 344, "max_length": length},
        }
    )  # fmt: skip
    torch.set_num_threads(1)
    engine = assemble(cfg.model.build(facts, 0).train(), cfg, STEPS, rank=rank, world=world)  # type: ignore[union-attr]
    draw = np.random.default_rng(0)
    data = [{"tokens": draw.integers(3, 1024, length)} for _ in range(rows)]
    place = {"rank": engine.grid.data_rank, "world": engine.grid.data_world}
    batches = Batches(data, "Tokens", batch=rows, micro=int(cfg.micro_batch), seed=0, pad_id=0, **place)
    objective: Any = cfg.objective
    cpu, wall, loss = [], [], 0.0
    for step in range(STEPS):
        started, used = time.perf_counter(), time.process_time()
        micros = batches.at(step)
        inputs = [objective.inputs(micro, 0) for micro in micros]
        (weight,) = engine.sum([sum(float(i.weight_BT.sum()) for i in inputs)])

        def of(index: int, scores: Any, inputs: Any = inputs, micros: Any = micros, weight: float = weight) -> Any:
            made = objective.loss(scores, inputs[index], micros[index])
            return made._replace(total=made.total / weight)

        loss = engine.accumulate(inputs, of, objective.asks())["loss"] / weight
        engine.step()
        cpu.append(time.process_time() - used)
        wall.append(time.perf_counter() - started)
    return {
        "cpu_s": statistics.median(cpu[WARM:]),
        "wall_s": statistics.median(wall[WARM:]),
        "loss": loss,
        "peak_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024,
    }


def measured() -> dict[str, Any]:
    from tests.parallel.on_ranks import on_ranks

    ranks = {}
    for world in RANKS:
        found = on_ranks(world, one, 256, 64, timeout_s=600)
        ranks[world] = {
            "cpu_s of all ranks": round(sum(each["cpu_s"] for each in found), 3),
            "wall_s": round(max(each["wall_s"] for each in found), 3),
            "loss": found[0]["loss"],
            "peak_mb per rank": round(max(each["peak_mb"] for each in found)),
        }
        print(f"{world} ranks: {ranks[world]}", flush=True)
    lengths = {}
    for length in LENGTHS:
        _, printed = timed([sys.executable, "-m", "tests.bench.train_growth", str(length)])
        lengths[length] = json.loads(printed.splitlines()[-1])
        print(f"{length} tokens a row: {lengths[length]}", flush=True)
    return {"ranks": ranks, "lengths": lengths}


def forecast() -> dict[int, dict[str, float]]:
    """70B on H100s, two rows of 8,192 tokens per GPU and step; the fastest proven layout at each size."""
    from raylm.train.config import Train
    from raylm.trainer.forecast.devices import device_of
    from raylm.trainer.forecast.suggest import layouts

    found = {}
    for count in GPUS:
        cfg = Train(
            stage="train", rows="r", model="a/b", batch=2 * count, steps=1, dtype="bfloat16",
            workers={"count": count, "gpus": 1, "device": "h100"},
        )  # fmt: skip
        made = layouts(cfg, L70, device_of("h100"), length=8192, batch=2 * count, world=count)
        if not made:
            found[count] = {}
            continue
        best = made[0]
        found[count] = {
            "tokens/s per GPU": round(best.speed.tokens_per_s / count, 1),
            "MFU": round(best.speed.mfu(device_of("h100")), 3),
            "GB per GPU": round(best.memory.total / 1e9, 1),
            "layout": best.as_toml().replace("\n", "; "),
        }
        print(f"{count} GPUs: {found[count]}", flush=True)
    return found


def main() -> None:
    made, far = measured(), forecast()
    ranks, lengths = made["ranks"], made["lengths"]
    work = ranks[8]["cpu_s of all ranks"] / ranks[1]["cpu_s of all ranks"]
    alike = max(abs(ranks[world]["loss"] - ranks[1]["loss"]) for world in RANKS)
    fits = [values["tokens/s per GPU"] for values in far.values() if values]
    print(
        json.dumps(
            {
                "name": "train_growth",
                "peer": "itself on one rank",
                "peer_version": "",
                "ours": ranks[8]["cpu_s of all ranks"],
                "theirs": ranks[1]["cpu_s of all ranks"],
                "unit": "CPU seconds of all ranks for the same global batch, 8 ranks and 1",
                "ratio": round(1 / work, 3),
                "goal": 0.5,
                "ranks": ranks,
                "row length": lengths,
                "simulated GPUs": far,
                "kept from the smallest to the largest that fit": round(fits[-1] / fits[0], 3) if fits else None,
                "quality": {"largest loss difference between numbers of ranks": alike},
                "ok": alike < 1e-5 and 1 / work >= 0.5,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        os.environ["OMP_NUM_THREADS"] = "1"
        tokens = int(sys.argv[1])
        print(json.dumps(one(0, 1, tokens, TOKENS // tokens)))
    else:
        main()
