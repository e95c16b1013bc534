"""Takes nothing, leaves the speed of litgpt's own pretraining loop on a model of the same size and the same rows.

One process: with more, litgpt shards by a strategy that needs GPUs. Its model starts from its own weights and its order of
rows is its own, so losses are only compared roughly.
"""

from __future__ import annotations

import os
import re
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.pretrain import work


def main() -> None:
    import torch
    from litgpt import pretrain
    from litgpt.args import EvalArgs, TrainArgs
    from litgpt.config import Config
    from litgpt.data import DataModule

    torch.set_num_threads(os.cpu_count() or 1)

    class Rows(DataModule):
        def connect(self, tokenizer: Any = None, batch_size: int = 1, max_seq_length: int | None = None) -> None:
            self.batch_size = batch_size

        def train_dataloader(self) -> Any:
            rows = torch.from_numpy(work.rows())
            # litgpt cuts inputs and targets out of rows that are a token longer
            longer = torch.cat([rows, rows[:, :1]], 1)
            return torch.utils.data.DataLoader(longer, batch_size=self.batch_size)  # type: ignore[arg-type]

        def val_dataloader(self) -> Any:
            return self.train_dataloader()

    shape = work.SHAPE
    config = Config(
        name="small", block_size=work.LENGTH, vocab_size=work.VOCAB, padded_vocab_size=work.VOCAB, n_layer=shape["num_layers"],
        n_head=shape["num_heads"], n_embd=shape["hidden_size"], rotary_percentage=1.0, parallel_residual=False, bias=False,
        norm_class_name="RMSNorm", mlp_class_name="LLaMAMLP", intermediate_size=shape["intermediate_size"],
    )  # fmt: skip
    with tempfile.TemporaryDirectory() as at:
        # it would read this program's own command line to keep it beside the weights
        pretrain.save_hyperparameters = lambda *_, **__: None
        pretrain.setup(
            "small", model_config=config, out_dir=Path(at), precision="32-true", data=Rows(), devices=1, logger_name="csv",
            train=TrainArgs(
                save_interval=10**6, log_interval=1, global_batch_size=work.BATCH, micro_batch_size=work.BATCH,
                max_tokens=work.STEPS * work.BATCH * work.LENGTH, max_norm=work.CLIP, lr_warmup_steps=1,
            ),
            eval=EvalArgs(interval=10**6, final_validation=False, initial_validation=False, max_iters=1),
            optimizer={"class_path": "torch.optim.AdamW",
                       "init_args": {"lr": work.LR, "weight_decay": work.DECAY, "betas": work.BETAS, "fused": True}},
        )  # fmt: skip
    sys.stdout.flush()


def read(printed: str) -> dict[str, Any]:
    """Speed and losses from what litgpt prints of each iteration."""
    import statistics

    found = re.findall(r"loss train: ([\d.]+).*?iter time: ([\d.]+) ms", printed)
    typical = statistics.median([float(ms) / 1e3 for _, ms in found][work.WARM :])
    return {"tokens_per_s": work.BATCH * work.LENGTH / typical, "losses": [float(loss) for loss, _ in found]}


if __name__ == "__main__":
    main()
