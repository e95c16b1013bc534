"""Takes tinyshakespeare, leaves the held-out loss that raylm reaches against a plain nanoGPT-sized setting written by hand.

Same characters, same tokens of training: 4 layers, 4 heads, width 128, blocks of 64, batches of 12, 2,000 steps. The peer is a
GPT with learned positions, GELU and AdamW at a constant-then-cosine rate, as small GPTs are trained by hand; ours is a Llama
shape of the same width with raylm's defaults for this size. RAYLM_SHAKESPEARE names the text; `shared/data` beside the
checkout is looked at too.
"""

from __future__ import annotations

import json
import math
import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

BLOCK, BATCH, STEPS, WIDTH, LAYERS, HEADS = 64, 12, 2000, 128, 4, 4
LR = 1e-3


def text() -> str:
    places = [os.environ.get("RAYLM_SHAKESPEARE"), "../shared/data/tinyshakespeare.txt"]
    found = next((Path(place) for place in places if place and Path(place).exists()), None)
    if found is None:
        sys.exit("name a copy of tinyshakespeare in RAYLM_SHAKESPEARE")
    return found.read_text()


def encoded() -> tuple[Any, Any, int]:
    """Train and held-out characters as int64 (90 and 10 %), and how many kinds there are."""
    import torch

    whole = text()
    kinds = sorted(set(whole))
    place = {letter: at for at, letter in enumerate(kinds)}
    tokens = torch.tensor([place[letter] for letter in whole])
    cut = int(0.9 * len(tokens))
    return tokens[:cut], tokens[cut:], len(kinds)


def rate(step: int) -> float:
    if step < 100:
        return LR * (step + 1) / 100
    return 0.1 * LR + 0.9 * LR * 0.5 * (1 + math.cos(math.pi * (step - 100) / (STEPS - 100)))


def theirs() -> dict[str, Any]:
    """A small GPT by hand."""
    import torch
    from transformers import GPT2Config, GPT2LMHeadModel

    train, held, kinds = encoded()
    torch.manual_seed(1337)
    shape = GPT2Config(
        vocab_size=kinds, n_positions=BLOCK, n_embd=WIDTH, n_layer=LAYERS, n_head=HEADS, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0
    )
    model = GPT2LMHeadModel(shape).train()
    decay = [p for p in model.parameters() if p.dim() >= 2]
    plain = [p for p in model.parameters() if p.dim() < 2]
    groups = [{"params": decay, "weight_decay": 0.1}, {"params": plain, "weight_decay": 0.0}]
    optimizer = torch.optim.AdamW(groups, lr=LR, betas=(0.9, 0.99), fused=True)
    draw = torch.Generator().manual_seed(0)
    curve, started = [], time.perf_counter()
    for step in range(STEPS):
        at = torch.randint(0, len(train) - BLOCK, (BATCH,), generator=draw)
        rows = torch.stack([train[a : a + BLOCK + 1] for a in at])
        logits = model(input_ids=rows[:, :-1]).logits
        loss = torch.nn.functional.cross_entropy(logits.flatten(0, 1), rows[:, 1:].flatten())
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        for group in optimizer.param_groups:
            group["lr"] = rate(step)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        if (step + 1) % 250 == 0:
            curve.append((step + 1, time.perf_counter() - started, _held_out(lambda rows: model(input_ids=rows).logits, held)))
            model.train()
    return {"loss": curve[-1][2], "seconds": time.perf_counter() - started, "curve": curve}


def ours() -> dict[str, Any]:
    """raylm's loop and engine without Ray, on rows of BLOCK + 1 characters of the same text."""
    import torch

    from raylm.parallel.assemble import assemble
    from raylm.train.batches import Batches
    from raylm.train.config import Train
    from raylm.train.loop import Loop
    from raylm.trainer.setup import Setup

    train, held, kinds = encoded()
    tokens = {"vocab_size": kinds, "bos_token_id": 0, "eos_token_id": 0, "pad_token_id": 0, "length": BLOCK + 1}
    # every offset is a row, as for the peer
    rows = _Windows(train.numpy(), BLOCK + 1)
    cfg = Train.model_validate(
        {
            "stage": "train", "rows": "rows", "batch": BATCH, "micro_batch": BATCH, "steps": STEPS, "strategy": {"kind": "ddp"},
            "model": {"hidden_size": WIDTH, "num_layers": LAYERS, "num_heads": HEADS, "intermediate_size": 344,
                      "max_length": BLOCK + 1},
            "optimizer": {"kind": "muon", "lr": 0.02, "lr_rest": 6e-3, "weight_decay": 0.1, "warmup": 100, "schedule": "wsd",
                          "decay": 0.5, "floor": 0.0},
            "held_out_rows": 0, "save_every": 10**6,
        }
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as work:
        engine = assemble(cfg.model.build(tokens, 0).train(), cfg, STEPS)  # type: ignore[union-attr]
        batches = Batches(rows, "Tokens", batch=BATCH, micro=BATCH, seed=0, pad_id=0, rank=0, world=1)
        setup = Setup(
            rows_uris=["rows"], num_rows=[len(rows)], rows_kind="Tokens", model_path=None, tokenizer_path="", tokens=tokens,
            steps=STEPS, out=work, work=f"{work}/work",
        )  # fmt: skip
        curve, started = [], time.perf_counter()

        def log(step: int, **_: Any) -> None:
            if (step + 1) % 250 == 0:
                found = _held_out(lambda rows: engine.bare(input_ids=rows).logits, held)
                engine.bare.train()
                curve.append((step + 1, time.perf_counter() - started, found))

        Loop(
            cfg=cfg,
            setup=setup,
            engine=engine,
            batches=batches,
            held_out=None,
            reference=None,
            log=log,
            rewind=lambda step, rollback: None,
        ).run()
        spent = time.perf_counter() - started
    torch.set_grad_enabled(True)
    return {"loss": curve[-1][2], "seconds": spent, "curve": curve}


class _Windows:
    """Rows of `length` tokens that begin at every token."""

    def __init__(self, tokens: Any, length: int) -> None:
        self._tokens, self._length = tokens, length

    def __len__(self) -> int:
        return len(self._tokens) - self._length

    def __getitem__(self, at: int) -> dict[str, Any]:
        return {"tokens": self._tokens[at : at + self._length]}


def _held_out(logits: Any, held: Any) -> float:
    """Mean loss over all held-out characters in blocks."""
    import torch

    count = (len(held) - 1) // BLOCK
    rows = held[: count * BLOCK].view(count, BLOCK)
    nexts = held[1 : count * BLOCK + 1].view(count, BLOCK)
    with torch.no_grad():
        losses = [
            torch.nn.functional.cross_entropy(
                logits(rows[at : at + 256]).flatten(0, 1), nexts[at : at + 256].flatten(), reduction="sum"
            )
            for at in range(0, count, 256)
        ]
    return float(sum(losses)) / (count * BLOCK)


def main() -> None:
    import torch

    from raylm.core.errors import RaylmError

    torch.set_num_threads(os.cpu_count() or 1)
    try:
        peer, made = theirs(), ours()
    except RaylmError as cause:
        sys.exit(str(cause))
    # what ours had reached when the peer's whole time was over
    in_time = [loss for _, seconds, loss in made["curve"] if seconds <= peer["seconds"]]
    print(
        json.dumps(
            {
                "name": "pretrain_quality",
                "peer": "GPT of nanoGPT's size, by hand in torch",
                "peer_version": torch.__version__,
                "ours": round(made["loss"], 4),
                "theirs": round(peer["loss"], 4),
                "unit": "held-out nats per character at equal tokens (lower is better)",
                "ratio": round(peer["loss"] / made["loss"], 3),
                "goal": 1.0,
                "at equal time": {"ours": round(in_time[-1], 4) if in_time else None, "theirs": round(peer["loss"], 4)},
                "seconds": {"ours": round(made["seconds"], 1), "theirs": round(peer["seconds"], 1)},
                "curves": {"ours": made["curve"], "theirs": peer["curve"]},
                "quality": {"tokens": STEPS * BATCH * BLOCK},
                "ok": made["loss"] <= peer["loss"],
            }
        )
    )


if __name__ == "__main__":
    main()
