"""TRL's contestant: SFTTrainer with its packing on. Arguments: a folder with `model`; lora or full."""

from __future__ import annotations

import sys
import tempfile
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.finetune import work


def main() -> None:
    started = time.perf_counter()
    import torch
    from datasets import Dataset
    from peft import LoraConfig
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import SFTConfig, SFTTrainer

    root = Path(sys.argv[1])
    model = AutoModelForCausalLM.from_pretrained(root / "model", dtype=torch.float32)
    # the causal mask over documents is made from their positions; without flash attention this is what keeps them apart
    model.set_attn_implementation("sdpa")
    rows = work.dialogues()
    data = Dataset.from_list(
        [
            {"input_ids": row.question + row.answer, "completion_mask": [0] * len(row.question) + [1] * len(row.answer)}
            for row in rows
        ]
    )
    seen: list[float] = []
    trained: list[float] = []

    class Clock(TrainerCallback):
        def on_step_end(self, *_: Any, **__: Any) -> None:
            seen.append(time.perf_counter())

    class Counted(SFTTrainer):
        def training_step(self, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
            trained.append(float((inputs["labels"][:, 1:] != -100).sum()))
            return super().training_step(model, inputs, *more, **named)

    with tempfile.TemporaryDirectory() as at:
        args = SFTConfig(
            output_dir=at, packing=True, max_length=work.LENGTH, completion_only_loss=True,
            per_device_train_batch_size=work.ROWS, max_steps=work.STEPS, learning_rate=work.LR, lr_scheduler_type="constant",
            adam_beta1=work.BETAS[0], adam_beta2=work.BETAS[1], weight_decay=0.0, max_grad_norm=work.CLIP,
            optim="adamw_torch_fused", logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, disable_tqdm=True,
            dataloader_pin_memory=False, bf16=False, gradient_checkpointing=False,
        )  # fmt: skip
        lora = LoraConfig(target_modules="all-linear", task_type="CAUSAL_LM", **work.LORA) if sys.argv[2] == "lora" else None
        made = Counted(
            model=model, args=args, train_dataset=data, peft_config=lora, callbacks=[Clock()],
            processing_class=AutoTokenizer.from_pretrained(root / "model"),
        )  # fmt: skip
        made.train()
    losses = [row["loss"] for row in made.state.log_history if "loss" in row]
    step_s = [seen[0] - started, *(later - earlier for earlier, later in pairwise(seen))]
    work.report(step_s[0], step_s, trained, losses)


if __name__ == "__main__":
    main()
