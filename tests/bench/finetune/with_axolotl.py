"""axolotl's contestant, run by the Python of its own environment. Arguments: a folder with `model`, packed LoRA.

What it needs on a CPU: sdpa, torch's AdamW, no half precision, its LoRA kernels off (they are for GPUs), its telemetry off.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path
from typing import Any

from tests.bench.finetune import work

os.environ |= {"AXOLOTL_DO_NOT_TRACK": "1", "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1", "ACCELERATE_USE_CPU": "true"}


def config_of(root: Path) -> dict[str, Any]:
    """Its own config: the same steps, slots and rates."""
    return {
        "base_model": str(root / "model"),
        "datasets": [{"path": str(root / "tokenized.jsonl"), "ds_type": "json", "type": ""}],
        "dataset_prepared_path": str(root / "prepared"),
        "output_dir": str(root / "out"),
        "adapter": "lora",
        "lora_r": work.LORA["r"],
        "lora_alpha": work.LORA["lora_alpha"],
        "lora_dropout": work.LORA["lora_dropout"],
        "lora_target_linear": True,
        "lora_qkv_kernel": False,
        "lora_o_kernel": False,
        "lora_mlp_kernel": False,
        "lora_embedding_kernel": False,
        "sequence_len": work.LENGTH,
        "sample_packing": True,
        "pad_to_sequence_len": True,
        "micro_batch_size": work.ROWS,
        "gradient_accumulation_steps": 1,
        "max_steps": work.STEPS,
        "optimizer": "adamw_torch_fused",
        "learning_rate": work.LR,
        "lr_scheduler": "constant",
        "adam_beta1": work.BETAS[0],
        "adam_beta2": work.BETAS[1],
        "weight_decay": 0.0,
        "max_grad_norm": work.CLIP,
        "bf16": False,
        "fp16": False,
        "tf32": False,
        "gradient_checkpointing": False,
        "attn_implementation": "sdpa",
        "val_set_size": 0,
        "logging_steps": 1,
        "save_strategy": "no",
        "special_tokens": {"pad_token": "t0"},
        "seed": 0,
    }


def main() -> None:
    started = time.perf_counter()
    root = Path(sys.argv[1])
    with open(root / "tokenized.jsonl", "w") as file:
        for row in work.dialogues():
            tokens = row.question + row.answer
            labels = [-100] * len(row.question) + row.answer
            file.write(json.dumps({"input_ids": tokens, "attention_mask": [1] * len(tokens), "labels": labels}) + "\n")
    config = root / "axolotl.yaml"
    # JSON is YAML
    config.write_text(json.dumps(config_of(root)))
    from axolotl.cli.train import do_cli
    from transformers import Trainer
    from transformers.trainer_callback import CallbackHandler

    ends: list[float] = []
    trained: list[float] = []
    losses: list[float] = []
    inner = Trainer.training_step

    def counted(self: Any, model: Any, inputs: Any, *more: Any, **named: Any) -> Any:
        labels = inputs["labels"]
        trained.append(float((labels[:, 1:] != -100).sum()))
        loss = inner(self, model, inputs, *more, **named)
        losses.append(float(loss))
        return loss

    after = CallbackHandler.on_step_end

    def timed(self: Any, *arguments: Any, **named: Any) -> Any:
        ends.append(time.perf_counter())
        return after(self, *arguments, **named)

    Trainer.training_step, CallbackHandler.on_step_end = counted, timed  # type: ignore[method-assign]
    do_cli(str(config))
    step_s = [ends[0] - started, *(later - earlier for earlier, later in pairwise(ends))]
    work.report(step_s[0], step_s, trained, losses)


if __name__ == "__main__":
    main()
