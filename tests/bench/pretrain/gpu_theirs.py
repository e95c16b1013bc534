"""Takes nothing, leaves speed and memory of torch's and transformers' own loop on one device: the model's loss from labels.

Float32 weights under bfloat16 autocast, the whole model compiled, sdpa attention, fused AdamW, clipping; nothing is saved.
"""

from __future__ import annotations

from typing import Any

from tests.bench.pretrain import gpu_work as work


def main() -> None:
    import torch

    from raylm.model.shapes.llama import Llama

    device, micro = work.device(), work.WORK.micro
    num_micros = work.WORK.batch // micro
    # transformers' LlamaForCausalLM, with the weights that ours starts from
    bare: Any = Llama.model_validate(work.SHAPE).build(work.TOKENS, 0).to(device).train()
    bare.set_attn_implementation("sdpa")
    model: Any = torch.compile(bare)
    groups = [
        {"params": [p for p in bare.parameters() if p.dim() >= 2], "weight_decay": work.DECAY},
        {"params": [p for p in bare.parameters() if p.dim() < 2], "weight_decay": 0.0},
    ]
    optimizer = torch.optim.AdamW(groups, lr=work.LR, betas=work.BETAS, fused=True)
    rows, clock = torch.from_numpy(work.rows()), work.Clock()
    for indices in work.order():
        total = torch.zeros((), device=device)
        for at in range(0, len(indices), micro):
            tokens = rows[indices[at : at + micro]].to(device)
            with torch.autocast(device, torch.bfloat16):
                loss = model(input_ids=tokens, labels=tokens, use_cache=False).loss / num_micros
            loss.backward()
            total += loss.detach()
        torch.nn.utils.clip_grad_norm_(bare.parameters(), work.CLIP)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        clock.step(float(total))
    clock.tell()


if __name__ == "__main__":
    main()
