"""TRL's contestant: DPOTrainer. Arguments: a folder with `model`; `live` or `stored` scores of the reference."""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.preference import work


def main() -> None:
    started = time.perf_counter()
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import DPOConfig, DPOTrainer

    root = Path(sys.argv[1])

    def load() -> Any:
        return AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32, attn_implementation="sdpa")

    rows = work.pairs()
    ids = Dataset.from_list([{f"{name}_ids": part for name, part in rows[row].items()} for row in work.order()])
    seen: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append(time.perf_counter())

    class Tokenized(DPOTrainer):
        def _prepare_dataset(self, dataset: Any, *_: Any) -> Any:
            # rows come as tokens: both learn from the same ones
            return dataset

    with tempfile.TemporaryDirectory() as at:
        args = DPOConfig(
            output_dir=at, beta=work.BETA, max_length=None, per_device_train_batch_size=work.BATCH, max_steps=work.STEPS,
            learning_rate=work.LR, lr_scheduler_type="constant", adam_beta1=work.BETAS[0], adam_beta2=work.BETAS[1],
            weight_decay=0.0, max_grad_norm=work.CLIP, optim="adamw_torch_fused", logging_steps=1, report_to=[],
            save_strategy="no", use_cpu=True, disable_tqdm=True, dataloader_pin_memory=False, bf16=False,
            gradient_checkpointing=False, precompute_ref_log_probs=sys.argv[2] == "stored",
            train_sampling_strategy="sequential",
        )  # fmt: skip
        made = Tokenized(
            model=load(), ref_model=load(), args=args, train_dataset=ids, callbacks=[Clock()],
            processing_class=AutoTokenizer.from_pretrained(root / "model"),
        )  # fmt: skip
        made.train()
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    step_s = [seen[0] - started, *(later - earlier for earlier, later in pairwise(seen))]
    work.report(step_s[0], step_s, losses)


if __name__ == "__main__":
    main()
