"""Takes nothing, leaves speed and memory of raylm's loop on one device, without Ray: bfloat16, compiled blocks, fused loss."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

from tests.bench.pretrain import gpu_work as work


def main() -> None:
    from raylm.core.storage import Folder
    from raylm.parallel.assemble import assemble
    from raylm.train.batches import Batches
    from raylm.train.config import Train
    from raylm.train.loop import Loop
    from raylm.trainer.setup import Setup

    numbers, device = work.WORK, work.device()
    cfg = Train.model_validate(
        {
            "stage": "train",
            "rows": "tokens",
            "model": work.SHAPE,
            "optimizer": {
                "lr": work.LR, "betas": work.BETAS, "weight_decay": work.DECAY, "clip": work.CLIP,
                "warmup": 0, "schedule": "constant",
            },
            "strategy": {"kind": "ddp"},
            "dtype": "bfloat16",
            "compile": True,
            "cross_entropy": "fused",
            "batch": numbers.batch,
            "micro_batch": numbers.micro,
            "steps": numbers.steps,
            "held_out_rows": 0,
            "save_every": 10**6,
        }
    )  # fmt: skip
    shape: Any = cfg.model
    model = shape.build(work.TOKENS, cfg.seed).to(device)
    rows = [{"tokens": row} for row in work.rows()]
    clock = work.Clock()

    def log(step: int, **values: Any) -> None:
        clock.step(values["loss"])

    with tempfile.TemporaryDirectory() as at:
        setup = Setup(
            rows_uris=["rows"], num_rows=[len(rows)], rows_kind="Tokens", model_path=None, tokens=work.TOKENS, tokenizer_path="",
            steps=numbers.steps, out=Folder(Path(at) / "out").uri, work=Folder(Path(at) / "work").uri,
        )  # fmt: skip
        loop = Loop(
            cfg=cfg,
            setup=setup,
            engine=assemble(model.train(), cfg, numbers.steps),
            batches=Batches(
                rows, "Tokens", batch=numbers.batch, micro=numbers.micro, seed=cfg.seed, pad_id=0, rank=0, world=1, device=device
            ),
            held_out=None,
            reference=None,
            log=log,
            rewind=lambda *_, **__: None,
        )
        loop.run()
    clock.tell()


if __name__ == "__main__":
    main()
