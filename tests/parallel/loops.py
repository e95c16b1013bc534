"""A training loop over fixed rows, which the tests of one and of two ranks run."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist

from raylm.core.storage import Folder
from raylm.core.variants import VALUED
from raylm.model.freezing import freeze_parts
from raylm.model.value_head import with_value_head
from raylm.parallel.assemble import assemble
from raylm.parallel.optimizers.adamw import AdamW
from raylm.train.batches import Batches
from raylm.train.config import Train
from raylm.train.loop import Loop
from raylm.trainer.history import History
from raylm.trainer.setup import Setup

SHAPE = {"hidden_size": 32, "num_layers": 2, "num_heads": 2, "num_kv_heads": 1, "intermediate_size": 64, "max_length": 64}
TOKENS = {"vocab_size": 64, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}


def fixed_rows() -> list[dict[str, Any]]:
    """23 rows of 5 to 12 tokens, as dialogues, pairs and judged answers at once; no batch of 5 divides evenly."""
    draw = np.random.default_rng(7)

    def tokens(low: int, high: int) -> np.ndarray:
        return draw.integers(3, 64, draw.integers(low, high))

    rows = []
    for _ in range(23):
        prompt, chosen, rejected = tokens(2, 5), tokens(3, 8), tokens(3, 8)
        mask = np.concatenate([np.zeros(len(prompt)), np.ones(len(chosen))])
        rows.append(
            {
                "tokens": np.concatenate([prompt, chosen]),
                "starts": [0, len(prompt)],
                "mask": mask,
                "prompt": prompt,
                "chosen": chosen,
                "rejected": rejected,
                "completion": chosen,
                "label": len(rows) % 3 > 0,
            }
        )
    return rows


def make_loop(
    strategy: Any,
    work: Path,
    *,
    steps: int = 6,
    micro: int = 2,
    kind: str = "Dialogues",
    lr: float = 1e-2,
    model: torch.nn.Module | dict[str, Any] | None = None,
    **table: Any,
) -> tuple[Loop, list[dict[str, Any]]]:
    """A loop with a batch of 5, and the list that its rows go to; `model` replaces the new one, or is its shape."""
    # a model this small loses more by waiting for a second thread than it gains
    torch.set_num_threads(1)
    place = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
    cfg = Train(
        stage="train",
        rows="rows",
        model=model if isinstance(model, dict) else SHAPE,
        strategy=strategy,
        workers={"count": place[1]},
        batch=5,
        micro_batch=micro,
        steps=steps,
        **{"save_every": 3, "held_out_rows": 7, "optimizer": AdamW(lr=lr, warmup=2), **table},
    )
    bare = model if isinstance(model, torch.nn.Module) else cfg.model.build(TOKENS, cfg.seed)
    reference = None
    if "reference" in cfg.objective.needs and not cfg.adapter:
        frozen = cfg.model.build(TOKENS, cfg.seed + 1)
        reference = assemble(frozen, cfg, steps, rank=place[0], world=place[1], frozen=True)
    teacher = None
    if "teacher" in cfg.objective.needs:
        wide = cfg.model.model_copy(update={"hidden_size": 64, "num_layers": 4}).build(TOKENS, cfg.seed + 1)
        # one that prefers some tokens
        wide.get_output_embeddings().weight.data.mul_(10.0)
        teacher = assemble(wide, cfg, steps, rank=place[0], world=place[1], frozen=True)
        cfg = cfg.model_copy(update={"objective": cfg.objective.fitted(kind, range(64))})
    if cfg.objective.makes in VALUED:
        bare = with_value_head(bare, cfg.seed, ("a", "b", "c") if kind == "Labelled" else ())
    freeze_parts(bare, cfg.freeze, cfg.unfrozen_parameters)
    if cfg.adapter:
        bare = cfg.adapter.attach(bare, cfg.seed)
    engine = assemble(bare.train(), cfg, steps, rank=place[0], world=place[1])
    rows = fixed_rows()
    if kind == "Tokens":
        rows = [{"tokens": row["tokens"], "starts": row["starts"]} for row in rows]
    if kind == "Labelled":
        rows = [{"tokens": row["tokens"], "label": at % 3} for at, row in enumerate(rows)]
    place = {"rank": engine.grid.data_rank, "world": engine.grid.data_world}
    laid = {"document_mask": cfg.document_mask, "padding_free": cfg.padding_free is True}
    more = {**laid, "mismatched": "mismatched" in cfg.objective.needs}
    batches = Batches(rows, kind, batch=5, micro=micro, seed=0, pad_id=0, **place, **more)
    setup = Setup(
        rows_uris=["rows"],
        num_rows=[len(rows)],
        rows_kind=kind,
        model_path=None,
        tokens=TOKENS,
        tokenizer_path="",
        steps=steps,
        out=(Folder(work) / "out").uri,
        work=str(work),
    )
    seen: list[dict[str, Any]] = []

    def rewind(step: int, rollback: bool = False) -> None:
        seen[:] = History(Folder(work)).read(step)

    loop = Loop(
        cfg=cfg,
        setup=setup,
        engine=engine,
        batches=batches,
        held_out=batches,
        reference=reference,
        teacher=teacher,
        log=lambda step, **values: seen.append({"step": step, **values}),
        rewind=rewind,
    )
    return loop, seen


def losses(rows: list[dict[str, Any]]) -> list[float]:
    return [row["loss"] for row in rows]
