"""Takes a number of processes, leaves the speed of transformers' Trainer on the same batches."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from itertools import pairwise
from typing import Any

from tests.bench.pretrain import work


def train(rank: int, world: int) -> None:
    import torch

    os.environ |= {"RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world)} if world > 1 else {}
    os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": sys.argv[2]} if world > 1 else {}
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from raylm.model.shapes.llama import Llama

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    rows = torch.from_numpy(work.rows())
    data: Any = [{"input_ids": rows[index], "labels": rows[index]} for indices in work.order() for index in indices]
    seen: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append(time.perf_counter())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

    with tempfile.TemporaryDirectory() as at:
        args = TrainingArguments(
            output_dir=at, per_device_train_batch_size=work.BATCH // world, max_steps=work.STEPS, learning_rate=work.LR,
            lr_scheduler_type="constant", adam_beta1=work.BETAS[0], adam_beta2=work.BETAS[1], weight_decay=work.DECAY,
            max_grad_norm=work.CLIP, optim="adamw_torch_fused", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
            ddp_backend="gloo" if world > 1 else None, disable_tqdm=True, dataloader_pin_memory=False, bf16=False,
        )  # fmt: skip
        made = InOrder(model=Llama(**work.SHAPE).build(work.TOKENS, 0), args=args, train_dataset=data, callbacks=[Clock()])
        made.train()
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    if rank == 0:
        work.tell([0.0, *(b - a for a, b in pairwise(seen))], losses)


def main() -> None:
    import torch

    world = int(sys.argv[1])
    if world == 1:
        train(0, 1)
    else:
        torch.multiprocessing.spawn(train, args=(world,), nprocs=world)


if __name__ == "__main__":
    main()
