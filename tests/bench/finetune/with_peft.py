"""peft's contestant: transformers' Trainer over a base that bitsandbytes put into 4 bits. Argument: a folder with `model` and
`dialogues`. It reads the same packed rows in the same order; documents are kept apart by their positions."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.finetune import work


def rows_of(root: Path) -> list[dict[str, Any]]:
    """The rows of all steps, in raylm's order."""
    import numpy as np

    from raylm.data.order import batch_indices
    from raylm.data.shards import map_arrow

    table = map_arrow(root / "dialogues" / "train-00000.arrow").to_pylist()
    made = []
    for step in range(work.STEPS):
        for index in batch_indices(len(table), work.ROWS, step, 0):
            row = table[index]
            tokens, mask, starts = (np.array(row[key]) for key in ("tokens", "mask", "starts"))
            begins = np.zeros(len(tokens), dtype=np.int64)
            begins[starts] = starts
            positions = np.arange(len(tokens)) - np.maximum.accumulate(begins)
            made.append({"input_ids": tokens, "labels": np.where(mask == 1, tokens, -100), "position_ids": positions})
    return made


def collate(rows: list[dict[str, Any]]) -> dict[str, Any]:
    import torch

    longest = max(len(row["input_ids"]) for row in rows)
    fill = {"input_ids": 0, "labels": -100, "position_ids": 0}
    padded = {
        name: torch.stack(
            [
                torch.nn.functional.pad(torch.from_numpy(row[name].astype("int64")), (0, longest - len(row[name])), value=value)
                for row in rows
            ]
        )
        for name, value in fill.items()
    }
    # what is behind the last document is one of its own
    for at, row in enumerate(rows):
        size = len(row["input_ids"])
        padded["position_ids"][at, size:] = torch.arange(longest - size)
    return padded


def main() -> None:
    started = time.perf_counter()
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig, Trainer, TrainerCallback, TrainingArguments

    root = Path(sys.argv[1])
    torch.set_num_threads(os.cpu_count() or 1)
    how = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", bnb_4bit_use_double_quant=True, bnb_4bit_compute_dtype=torch.float32
    )
    model = AutoModelForCausalLM.from_pretrained(
        root / "model", dtype=torch.float32, quantization_config=how, attn_implementation="sdpa"
    )
    torch.manual_seed(0)
    adapted = get_peft_model(model, LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **work.LORA))
    seen: list[float] = []
    trained: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append(time.perf_counter())

    class InOrder(Trainer):
        def _get_train_sampler(self, *_: Any, **__: Any) -> Any:
            return torch.utils.data.SequentialSampler(data)

        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            trained.append(float((inputs["labels"][:, 1:] != -100).sum()))
            return super().training_step(model, inputs, *more, **named)

    data: Any = rows_of(root)
    with tempfile.TemporaryDirectory() as at:
        args = TrainingArguments(
            output_dir=at, per_device_train_batch_size=work.ROWS, max_steps=work.STEPS, learning_rate=work.LR,
            lr_scheduler_type="constant", adam_beta1=work.BETAS[0], adam_beta2=work.BETAS[1], weight_decay=0.0,
            max_grad_norm=work.CLIP, optim="adamw_torch_fused", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True,
            disable_tqdm=True, dataloader_pin_memory=False, bf16=False, gradient_checkpointing=False, remove_unused_columns=False,
        )  # fmt: skip
        made = InOrder(model=adapted, args=args, train_dataset=data, data_collator=collate, callbacks=[Clock()])
        made.train()
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    step_s = [seen[0] - started, *(later - earlier for earlier, later in pairwise(seen))]
    work.report(step_s[0], step_s, trained, losses)


if __name__ == "__main__":
    main()
