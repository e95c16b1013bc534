"""Takes a model of 19 M parameters, leaves what a step checkpoint costs: seconds that training waits for it, written in the
background by raylm and at once by torch's own DCP save; seconds until a resumed engine is ready; and what Ray and the loop cost
around the bare engine."""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.near_copies.peers import timed
from tests.bench.pretrain import work

SHAPE = {
    "hidden_size": 512,
    "num_layers": 4,
    "num_heads": 8,
    "intermediate_size": 1408,
    "max_length": 64,
    "tie_embeddings": False,
}
VOCAB, SAVES = 8192, 6
TOKENS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": 64}


def engine() -> Any:
    from raylm.parallel.assemble import assemble
    from raylm.train.config import Train

    cfg = Train(
        stage="train", rows="r", model=SHAPE, batch=2, micro_batch=2, steps=10**6, strategy={"kind": "ddp"}, save_every=10**6
    )
    return assemble(cfg.model.build(TOKENS, 0).train(), cfg, 10**6)  # type: ignore[union-attr]


def learn(made: Any, step: int) -> None:
    import numpy as np

    from raylm.data.batch import pad
    from raylm.model.scores import causal
    from raylm.trainer.loss import Loss

    draw = np.random.default_rng(step)
    inputs = causal(pad([draw.integers(3, VOCAB, 64) for _ in range(2)], [np.ones(64)] * 2, 0))

    def loss(_: int, scores: Any) -> Loss:
        total = -(scores.logprob_BT * inputs.weight_BT).sum() / float(inputs.weight_BT.sum())
        return Loss(total, {"loss": total.detach()})

    made.accumulate([inputs], loss, linear=True)
    made.step()


def stalls() -> dict[str, Any]:
    """Seconds that the loop is held up by saves of both kinds, alternating, with the same engine."""
    import torch
    from torch.distributed.checkpoint.filesystem import FileSystemWriter
    from torch.distributed.checkpoint.state_dict_saver import save

    from raylm.core.storage import Folder
    from raylm.parallel.checkpoints.saver import Saver
    from raylm.parallel.checkpoints.steps import Keeping

    torch.set_num_threads(1)
    made = engine()
    found: dict[str, list[float]] = {"ours": [], "theirs": []}
    with tempfile.TemporaryDirectory() as at:
        saver = Saver(made, Folder(f"{at}/ours"), Keeping(2, 0, None), 3)
        for turn in range(SAVES):
            learn(made, turn)
            started = time.perf_counter()
            saver.copy()
            saver.write({}, [])
            found["ours"].append(time.perf_counter() - started)
            # work goes on until the save is whole, as it does in training
            while saver.poll() is None:
                time.sleep(0.05)
            started = time.perf_counter()
            save(made.state(), storage_writer=FileSystemWriter(f"{at}/theirs-{turn}"))
            found["theirs"].append(time.perf_counter() - started)
        saver.close()
        before = {name: tensor.clone() for name, tensor in made.weights().items()}
        fresh = engine()
        started = time.perf_counter()
        again = Saver(fresh, Folder(f"{at}/ours"), Keeping(2, 0, None), 3)
        again.load(None)
        resumed = time.perf_counter() - started
        again.close()
        same = all(tensor.equal(before[name]) for name, tensor in fresh.weights().items())
        size = sum(path.stat().st_size for path in Path(f"{at}/theirs-0").rglob("*") if path.is_file())
    # the first save of a process allocates what later ones use again
    middle = {who: statistics.median(values[1:]) for who, values in found.items()}
    return {**middle, "first": found["ours"][0], "resume_s": resumed, "same": same and fresh.done == made.done, "bytes": size}


def bare() -> float:
    """Tokens per second of the engine alone on the work of `pretrain_speed`."""
    import torch

    from raylm.data.batch import pad
    from raylm.model.scores import causal
    from raylm.parallel.assemble import assemble
    from raylm.train.config import Train
    from raylm.trainer.loss import Loss

    torch.set_num_threads(os.cpu_count() or 1)
    cfg = Train(
        stage="train", rows="r", model=work.SHAPE, batch=work.BATCH, micro_batch=work.BATCH, steps=work.STEPS,
        strategy={"kind": "ddp"}, optimizer={"lr": work.LR, "warmup": 0, "schedule": "constant"},
    )  # fmt: skip
    made = assemble(cfg.model.build(work.TOKENS, 0).train(), cfg, work.STEPS)  # type: ignore[union-attr]
    rows, spent = work.rows(), []
    for indices in work.order():
        started = time.perf_counter()
        masks = [[1.0] * work.LENGTH] * work.BATCH
        inputs = causal(pad([rows[index] for index in indices], masks, 0))  # type: ignore[arg-type]
        weight = float(inputs.weight_BT.sum())

        def loss(_: int, scores: Any, inputs: Any = inputs, weight: float = weight) -> Loss:
            total = -(scores.logprob_BT * inputs.weight_BT).sum() / weight
            return Loss(total, {"loss": total.detach()})

        made.accumulate([inputs], loss, linear=True)
        made.step()
        spent.append(time.perf_counter() - started)
    return work.BATCH * work.LENGTH / statistics.median(spent[work.WARM :])


def main() -> None:
    from tests.bench.pretrain_speed import contestant

    found = stalls()
    with tempfile.TemporaryDirectory() as at:
        work.make_tokens(Path(at))
        pairs = []
        for _ in range(2):
            _, printed = timed([sys.executable, "-m", "tests.bench.checkpoint_stall", "bare"])
            pairs.append((contestant("ours", 1, at)["tokens_per_s"], float(printed.splitlines()[-1])))
            print(f"under Ray {pairs[-1][0]:.0f} tokens/s, engine alone {pairs[-1][1]:.0f}", flush=True)
    around = statistics.median(alone / ray for ray, alone in pairs) - 1
    print(
        json.dumps(
            {
                "name": "checkpoint_stall",
                "peer": "torch.distributed.checkpoint save",
                "peer_version": __import__("torch").__version__,
                "ours": round(found["ours"], 3),
                "theirs": round(found["theirs"], 3),
                "unit": "s that training waits per save",
                "ratio": round(found["theirs"] / found["ours"], 2),
                "goal": 2.0,
                "first save of a process": round(found["first"], 3),
                "resume_s": round(found["resume_s"], 2),
                "checkpoint_bytes": found["bytes"],
                "overhead of Ray and the loop around the bare engine": f"{around:.1%}",
                "quality": {"weights after resume are those before": found["same"]},
                "ok": found["same"] and found["theirs"] / found["ours"] >= 2.0,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        print(bare())
    else:
        main()
