"""Peak memory of DPO at 4k and 8k tokens and a vocabulary of 151,936: raylm's engine against TRL's DPOTrainer, a process each.

One step on one pair: a prompt of three quarters, two answers of a quarter of the tokens. Both at their best: blocks computed
again in the backward pass, heads that never hold all logits, references scored ahead; TRL 1.16, the newest that installs here,
has padding-free batches switched off. Counted is what the process grows by after its imports: weights, gradients, optimizer,
activations, loss.
"""

from __future__ import annotations

import json
import os
import statistics
import sys
import tempfile
from importlib.metadata import version
from typing import Any

from tests.bench.near_copies.peers import timed

SHAPE = {"hidden_size": 256, "num_layers": 4, "num_heads": 4, "intermediate_size": 704, "max_length": 8192}
VOCAB, LENGTHS, STEPS = 151_936, (4096, 8192), 1
ROUNDS = int(os.environ.get("RAYLM_ROUNDS", "1"))
TOKENS = {"vocab_size": VOCAB, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def pair(length: int) -> dict[str, Any]:
    """One pair whose sequences have `length` tokens."""
    import numpy as np

    draw = np.random.default_rng(0)
    sizes = {"prompt": length * 3 // 4, "chosen": length // 4, "rejected": length // 4}
    return {name: draw.integers(3, VOCAB, size) for name, size in sizes.items()}


def peak() -> int:
    """Bytes that the process held at its peak so far."""
    import resource

    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def ours(length: int) -> None:
    import torch

    from raylm.parallel.assemble import assemble
    from raylm.train.batches import Batches
    from raylm.train.config import Train
    from raylm.train.objectives.objective import REFERENCE, Passes

    cfg: Any = Train.model_validate(
        {
            "stage": "train", "rows": "pairs", "model": SHAPE, "batch": 1, "steps": STEPS, "objective": {"kind": "dpo"},
            "strategy": {"kind": "ddp"}, "activation_checkpointing": "full", "optimizer": {"lr": 1e-4, "warmup": 0},
        }
    )  # fmt: skip
    before = peak()
    engine, objective, losses = assemble(cfg.model.build(TOKENS, 0).train(), cfg, STEPS), cfg.objective, []

    def batches(row: dict[str, Any]) -> Any:
        return Batches([row], "Pairs", batch=1, micro=1, seed=0, pad_id=0, rank=0, world=1, padding_free=True).split([0])

    passes = Passes(engine.forward, engine.forward, engine.sum)
    micros = batches(pair(length))
    inputs = [objective.inputs(micro, 0) for micro in micros]
    # the start is the reference: what a pass over the rows stores
    (scores,) = engine.forward(inputs)
    stored = micros[0].sums(scores.logprob_BT * inputs[0].weight_BT)
    micros = batches({**pair(length), "scores": {REFERENCE: stored.numpy()}})
    prepared = objective.prepare(micros, inputs, passes)
    for _ in range(STEPS):
        made = engine.accumulate(inputs, lambda at, found: objective.loss(found, inputs[at], micros[at], prepared[at]))
        losses.append(made["loss"])
        engine.step()
    print(json.dumps({"bytes": peak() - before, "losses": losses, "threads": torch.get_num_threads()}))


def theirs(length: int) -> None:
    import torch
    from datasets import Dataset
    from trl import DPOConfig, DPOTrainer

    from raylm.train.config import Train
    from tests.model.tiny import tiny_tokenizer

    cfg: Any = Train.model_validate({"stage": "train", "rows": "pairs", "model": SHAPE, "batch": 1, "steps": 1})
    before = peak()
    model = cfg.model.build(TOKENS, 0)
    model.set_attn_implementation("sdpa")
    data = Dataset.from_list([{f"{name}_ids": part.tolist() for name, part in pair(length).items()}] * STEPS)

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            return dataset

    with tempfile.TemporaryDirectory() as at:
        args = DPOConfig(
            output_dir=at, beta=0.1, max_length=None, per_device_train_batch_size=1, max_steps=STEPS, learning_rate=1e-4,
            lr_scheduler_type="constant", adam_beta2=0.95, weight_decay=0.0, optim="adamw_torch_fused", logging_steps=1,
            report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, bf16=False,
            gradient_checkpointing=True, precompute_ref_log_probs=True, max_grad_norm=1.0,
        )  # fmt: skip
        made = Tokenized(model=model, args=args, train_dataset=data, processing_class=tiny_tokenizer(300))
        made.train()
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    print(json.dumps({"bytes": peak() - before, "losses": losses, "threads": torch.get_num_threads()}))


def main() -> None:
    found: dict[tuple[str, int], list[dict[str, Any]]] = {}
    for _ in range(ROUNDS):
        for length in LENGTHS:
            for who in ("ours", "theirs"):
                _, printed = timed([sys.executable, "-m", "tests.bench.dpo_memory", who, str(length)])
                made = json.loads(next(line for line in reversed(printed.splitlines()) if line.startswith('{"bytes"')))
                found.setdefault((who, length), []).append(made)
                print(f"{who}, {length} tokens: {made['bytes'] / 1e6:.0f} MB", flush=True)
    held = {key: statistics.median(one["bytes"] for one in made) for key, made in found.items()}
    shares = {length: held["ours", length] / held["theirs", length] for length in LENGTHS}
    pairs = [zip(found["ours", length][0]["losses"], found["theirs", length][0]["losses"], strict=True) for length in LENGTHS]
    apart = max(abs(left - right) for both in pairs for left, right in both)
    print(
        json.dumps(
            {
                "name": "dpo_memory",
                "peer": "TRL DPOTrainer (fused head, references precomputed, gradient checkpointing)",
                "peer_version": f"{version('trl')}, the newest that installs here",
                "ours": {str(length): round(held["ours", length] / 1e6) for length in LENGTHS},
                "theirs": {str(length): round(held["theirs", length] / 1e6) for length in LENGTHS},
                "unit": "MB beyond the imports",
                "ratio": round(1 / max(shares.values()), 2),
                "goal": 2.0,
                "shares": {str(length): round(share, 3) for length, share in shares.items()},
                "quality": {"largest difference of a loss": apart},
                "ok": max(shares.values()) <= 0.5 and apart < 1e-3,
            }
        )
    )


if __name__ == "__main__":
    if len(sys.argv) > 1:
        {"ours": ours, "theirs": theirs}[sys.argv[1]](int(sys.argv[2]))
    else:
        main()
