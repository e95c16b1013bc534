"""Takes a number of processes, leaves the speed of a training loop written by hand: the limit of what can be had.

transformers' model, torch's DDP, cross-entropy, fused AdamW and clipping; nothing is saved or told.
"""

from __future__ import annotations

import os
import sys
import time
from typing import Any

from tests.bench.pretrain import work


def train(rank: int, world: int) -> None:
    import torch
    import torch.distributed as dist

    from raylm.model.shapes.llama import Llama

    torch.set_num_threads(max(1, (os.cpu_count() or 1) // world))
    if world > 1:
        dist.init_process_group("gloo", init_method=f"tcp://127.0.0.1:{sys.argv[2]}", rank=rank, world_size=world)
    bare = Llama(**work.SHAPE).build(work.TOKENS, 0).train()
    model: Any = torch.nn.parallel.DistributedDataParallel(bare) if world > 1 else bare
    groups = [
        {"params": [p for p in bare.parameters() if p.dim() >= 2], "weight_decay": work.DECAY},
        {"params": [p for p in bare.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=work.LR, betas=work.BETAS, fused=True)
    rows = torch.from_numpy(work.rows())
    step_s, losses = [], []
    for indices in work.order():
        started = time.perf_counter()
        tokens = rows[indices[rank::world]]
        logits = model(input_ids=tokens, use_cache=False).logits
        loss = torch.nn.functional.cross_entropy(logits[:, :-1].flatten(0, 1), tokens[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), work.CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        losses.append(float(loss.detach()))
        step_s.append(time.perf_counter() - started)
    if rank == 0:
        work.tell(step_s, losses)


def main() -> None:
    import torch

    world = int(sys.argv[1])
    if world == 1:
        train(0, 1)
    else:
        torch.multiprocessing.spawn(train, args=(world,), nprocs=world)


if __name__ == "__main__":
    main()
