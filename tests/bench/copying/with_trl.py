"""TRL's contestant: GRPOTrainer, which draws with transformers. Arguments: a folder with the job, a seed, and
`colocate` where vLLM is to draw in its process (TRL 1.16 warns of each vLLM beyond 0.31, and works with 0.32)."""

from __future__ import annotations

import os
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

from tests.bench.copying import work


def main() -> None:
    started = time.perf_counter()
    os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
    import torch
    from datasets import Dataset
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl.trainer.grpo_config import GRPOConfig
    from trl.trainer.grpo_trainer import GRPOTrainer

    from raylm.core.artifact import Prompts, open_artifact
    from raylm.core.storage import Folder
    from raylm.rl.stage import read_prompts
    from tests.rl.copying import GENERATIONS, LENGTH, PROMPTS

    root = Path(sys.argv[1])
    found: Any = open_artifact(Folder(root / "prompts"))
    assert isinstance(found, Prompts)
    rows = [{"prompt": one.messages, "answer": one.ground_truth} for one in read_prompts(found, "train")]
    seen: list[tuple[float, float]] = []

    def right(completions: list[str], answer: list[str], **_: Any) -> list[float]:
        return [text.count(wanted) / LENGTH for text, wanted in zip(completions, answer, strict=True)]

    class Clock(TrainerCallback):
        def on_log(self, *_: Any, logs: dict[str, float] | None = None, **__: Any) -> None:
            if logs and "reward" in logs:
                seen.append((time.perf_counter(), logs["reward"]))

    model = AutoModelForCausalLM.from_pretrained(root / "base", dtype=torch.float32)
    with tempfile.TemporaryDirectory() as at:
        args = GRPOConfig(
            output_dir=at, per_device_train_batch_size=PROMPTS * GENERATIONS, num_generations=GENERATIONS,
            max_completion_length=LENGTH, max_steps=work.STEPS, learning_rate=work.LR, lr_scheduler_type="constant",
            adam_beta1=work.BETAS[0], adam_beta2=work.BETAS[1], weight_decay=0.0, max_grad_norm=work.CLIP, beta=0.0,
            epsilon=0.2, epsilon_high=0.28, loss_type="dapo", temperature=1.0, top_p=1.0, top_k=0, seed=int(sys.argv[2]),
            logging_steps=1, report_to=[], save_strategy="no", use_cpu=True, bf16=False, disable_tqdm=True,
            gradient_checkpointing=False, dataloader_pin_memory=False, use_vllm="colocate" in sys.argv, vllm_mode="colocate",
        )  # fmt: skip
        trainer = GRPOTrainer(
            model=model, reward_funcs=right, args=args, train_dataset=Dataset.from_list(rows), callbacks=[Clock()],
            processing_class=AutoTokenizer.from_pretrained(root / "base"),
        )  # fmt: skip
        trainer.train()
    work.report(started, seen)


if __name__ == "__main__":
    main()
