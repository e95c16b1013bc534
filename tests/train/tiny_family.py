"""A tiny model of a transformers family (a model_type and a few sizes) on disk, and as raylm trains it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any
from zlib import crc32

import numpy as np
import torch

from raylm.core.storage import Folder
from raylm.data.batch import Batch, pad
from raylm.model.load import auto_class
from raylm.parallel.assemble import assemble
from raylm.train.config import Train
from raylm.train.learner import start_model
from raylm.trainer.export import write_streamed
from raylm.trainer.setup import Setup

# one set of sizes for all: each family reads those that it knows
SIZES = {
    "vocab_size": 96, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4,
    "num_key_value_heads": 2, "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "initializer_range": 0.2, "sliding_window": 6,
}  # fmt: skip
FACTS = {"vocab_size": 96, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0, "length": 20}
OBJECTIVES = {
    "causal": {"kind": "next_token"},
    "masked": {"kind": "masked_lm", "mask_id": 3, "vocab_size": 96, "special_ids": [0, 1, 2, 3]},
    "seq2seq": {"kind": "seq2seq", "task": "answers", "end_id": 2},
}
LENGTHS = (20, 13, 9)


def rows() -> tuple[list[np.ndarray], list[np.ndarray]]:
    """Three dialogues that end with the end token, and their masks."""
    draw = np.random.default_rng(3)
    tokens = [np.append(draw.integers(4, 96, length - 1), 2) for length in LENGTHS]
    return tokens, [np.repeat([0, 1], [length - length // 2, length // 2]) for length in LENGTHS]


def packed() -> Batch:
    """The rows of `rows` in one."""
    tokens, masks = rows()
    one = pad([np.concatenate(tokens)], [np.concatenate([[0, *mask[1:]] for mask in masks])], 0)
    numbers = np.repeat(np.arange(len(tokens)), LENGTHS)
    positions = np.concatenate([np.arange(length) for length in LENGTHS])
    return one._replace(document_BT=torch.from_numpy(numbers)[None], position_BT=torch.from_numpy(positions)[None])


def save_tiny(kind: str, sizes: dict[str, Any], folder: Path, tokenizer: Any) -> None:
    """A model of `kind` with random weights, in transformers' own format."""
    from transformers import AutoConfig

    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **{**SIZES, **sizes})
    if (named := sizes.get("architectures")) is not None:
        config.architectures = named
    model = auto_class(config).from_config(config)
    for name, weight in model.named_parameters():
        # what a family begins with zeros or ones would hide what is left out
        if weight.dim() < 2:
            weight.data.add_(torch.randn_like(weight) * 0.05)
        assert weight.isfinite().all(), name
    if "final_logits_bias" in model._buffers:
        model.final_logits_bias.normal_()
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)


class Family:
    """A tiny model on disk, as raylm's train stage takes it on one rank."""

    def __init__(self, folder: Path, objective: str, **table: Any) -> None:
        self.folder = folder
        self.cfg = Train.model_validate(
            {"stage": "train", "rows": "r", "model": str(folder), "batch": 4, "steps": 4, "strategy": {"kind": "ddp"},
             "objective": OBJECTIVES[objective], "optimizer": {"lr": 1e-2, "warmup": 0.0}, **table}
        )  # fmt: skip
        out = str(folder / "out")
        self.setup = Setup(
            rows_uris=["r"], num_rows=[4], rows_kind="Tokens" if objective == "masked" else "Dialogues", model_path=str(folder),
            tokens=FACTS, tokenizer_path=str(folder), steps=4, out=out, work=out,
        )  # fmt: skip
        model = start_model(self.cfg, self.setup)
        self.objective: Any = self.cfg.objective.for_model(model)  # type: ignore[union-attr]
        if self.cfg.adapter:
            model = self.cfg.adapter.attach(model, 0)
            fill_adapters(model)
        self.config = model.config
        self.engine = assemble(model.train(), self.cfg, 4).drop_nothing()

    def loss(self, padded: Batch, learn: bool = True) -> float:
        """Mean loss of `padded`; with `learn` its gradients lie in the model."""
        inputs = self.objective.inputs(padded, 0)
        weight = float(inputs.weight_BT.sum())

        def made(index: int, scores: Any) -> Any:
            found = self.objective.loss(scores, inputs, padded)
            return found._replace(total=found.total / weight)

        run = self.engine.accumulate if learn else self.engine.measure
        return run([inputs], made, self.objective.asks())["loss"] / weight

    def export(self) -> Path:
        out = self.folder / "out"
        write_streamed(self.engine, Folder(out), self.config, str(self.folder), self.cfg.adapter, str(self.folder))
        return out


def fill_adapters(model: Any) -> None:
    """Adapters begin with zeros; here they get numbers that follow from their names, the same in peft's own model."""
    for name, weight in model.named_parameters():
        if ".lora_" in name:
            torch.manual_seed(crc32(name.encode()))
            weight.data.normal_(std=0.1)


def own(folder: Path, dtype: str = "float32") -> Any:
    """What transformers itself loads from `folder`."""
    from transformers import AutoConfig

    return auto_class(AutoConfig.from_pretrained(folder)).from_pretrained(folder, dtype=dtype).eval()


def own_loss(model: Any, objective: Any, padded: Batch) -> torch.Tensor:
    """Mean loss by transformers' own loss function, one row after the other: no padding, no other rows."""
    total, weight = torch.zeros(()), 0.0
    inputs = objective.inputs(padded, 0)
    for row, length in enumerate(padded.attend_BT.sum(1).tolist()):
        kind = objective.model
        if kind == "seq2seq":
            tokens_T, counts_T = padded.tokens_BT[row, :length], padded.weight_BT[row, :length] > 0
            feed, labels = tokens_T[~counts_T], tokens_T[counts_T]
        elif kind == "masked":
            feed = inputs.feed["input_ids"][row, :length]
            labels = padded.tokens_BT[row, :length].masked_fill(inputs.weight_BT[row, :length] == 0, -100)
        else:
            feed = padded.tokens_BT[row, :length]
            labels = feed.masked_fill(padded.weight_BT[row, :length] == 0, -100)
        count = float((labels[1:] if kind == "causal" else labels).ne(-100).sum())
        if count:
            total = total + model(input_ids=feed[None], labels=labels[None]).loss * count
            weight += count
    return total / weight


def logits(model: Any, objective: str) -> torch.Tensor:
    tokens_BT = torch.from_numpy(rows()[0][0])[None]
    more = {"decoder_input_ids": tokens_BT[:, :7]} if objective == "seq2seq" else {}
    with torch.no_grad():
        return model.eval()(input_ids=tokens_BT, **more).logits


def gradients(model: Any) -> Iterator[tuple[str, torch.Tensor]]:
    for name, p in model.named_parameters():
        if p.grad is not None:
            yield name, p.grad
