"""Pairs and judged answers of known tokens, and an objective on them as the loop runs it: loss, metrics, every gradient."""

from __future__ import annotations

import copy
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch

from raylm.data.batch import Batch
from raylm.model.scores import Scores, ask
from raylm.train.batches import Batches
from raylm.train.objectives.objective import Objective, Passes
from tests.model.tiny import tiny_model, tiny_tokenizer

PAIRS = [
    {"prompt": np.array([1, 40, 41]), "chosen": np.array([50, 51, 2]), "rejected": np.array([60, 2])},
    {"prompt": np.array([1, 42]), "chosen": np.array([52, 2]), "rejected": np.array([61, 62, 63, 2])},
]
TEXTS = [
    {"prompt": "a module", "chosen": " imports what", "rejected": " no"},
    {"prompt": "the class of", "chosen": " is", "rejected": " raises an error in the statement"},
    {"prompt": "why", "chosen": " of the expression is evaluated", "rejected": " it"},
    {"prompt": "a list", "chosen": " holds", "rejected": " is"},
]


class Learned(NamedTuple):
    """One global batch under an objective; `metrics` are means over its weight."""

    loss: float
    metrics: dict[str, float]
    gradients: dict[str, torch.Tensor]


def micros(rows: Sequence[dict[str, Any]], kind: str = "Pairs", micro: int = 8, mismatched: bool = False) -> list[Batch]:
    """The rows in order, as micro batches of one rank."""
    batches = Batches(rows, kind, batch=len(rows), micro=micro, seed=0, pad_id=0, rank=0, world=1, mismatched=mismatched)
    return batches.split(list(range(len(rows))))


def learned(card: Objective, model: Any, batches: list[Batch], reference: Any = None) -> Learned:
    """The gradient of the mean over the global batch, made of its micro batches' sums."""
    inputs = [card.inputs(batch, 0) for batch in batches]
    weight = sum(card.weight(batch, one) for batch, one in zip(batches, inputs, strict=True))

    def scored_by(scoring: Any) -> Callable[..., list[Scores]]:
        def forward(asked: Any) -> list[Scores]:
            with torch.no_grad():
                return [ask(scoring, one) for one in asked]

        return forward

    prepared = card.prepare(batches, inputs, Passes(scored_by(model), scored_by(reference), list))
    model.zero_grad()
    total, metrics = 0.0, {}
    for batch, one, what in zip(batches, inputs, prepared, strict=True):
        made = card.loss(ask(model, one, card.asks()), one, batch, what)
        (made.total / weight).backward()
        total += float(made.total.detach()) / weight
        for name, value in made.metrics.items():
            metrics[name] = metrics.get(name, 0.0) + float(value) / weight
    gradients = {name: p.grad.clone() for name, p in model.named_parameters() if p.grad is not None}
    return Learned(total, metrics, gradients)


def assert_gradients(found: dict[str, torch.Tensor], theirs: Any, *, error: float = 1e-5) -> None:
    """What was found is every gradient of `theirs`, a model behind its backward pass, but for `error` of the largest one."""
    expected = {name: p.grad for name, p in theirs.named_parameters() if p.grad is not None}
    assert expected and found.keys() == expected.keys()
    largest = max(float(tensor.abs().max()) for tensor in expected.values())
    assert largest > 0
    for name, tensor in expected.items():
        far = float((found[name] - tensor).abs().max())
        assert far <= error * largest, f"{name} is {far} off, the largest gradient is {largest}"


def two_models(vocab: int = 300) -> tuple[Any, Any]:
    """A policy and another model for its reference, in evaluation mode."""
    policy, reference = (tiny_model(vocab=vocab, hidden=32, layers=1, seed=seed).eval() for seed in (0, 1))
    return policy, reference


def arguments(config: Any, folder: Any, **more: Any) -> Any:
    """Arguments of one of TRL's trainers, on a CPU and without reports."""
    plain = {"use_cpu": True, "bf16": False, "report_to": [], "gradient_checkpointing": False, "per_device_train_batch_size": 4}
    return config(output_dir=str(folder), **(plain | more))


def tokenizer() -> Any:
    return tiny_tokenizer(300)


class Peer(NamedTuple):
    """One of TRL's trainers and its policy; and the same policy, untouched by it."""

    trainer: Any
    theirs: Any
    policy: Any

    def answers(self, pairs: Sequence[dict[str, Any]]) -> tuple[float, dict[str, Any]]:
        """Loss and metrics of pairs by a trainer that needs no reference; gradients are left on `theirs`."""
        batch: dict[str, torch.Tensor] = {}
        for side in ("chosen", "rejected"):
            ids = [torch.tensor(np.concatenate([pair["prompt"], pair[side]])) for pair in pairs]
            labels = [row.clone() for row in ids]
            for row, pair in zip(labels, pairs, strict=True):
                row[: len(pair["prompt"])] = -100
            ones = [torch.ones_like(row) for row in ids]
            for name, rows, fill in (("input_ids", ids, 0), ("labels", labels, -100), ("attention_mask", ones, 0)):
                batch[f"{side}_{name}"] = torch.nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_value=fill)
        self.theirs.eval().zero_grad()
        loss, metrics = self.trainer.get_batch_loss_metrics(self.theirs, batch)
        loss.backward()
        return float(loss.detach()), {name: float(value) for name, value in metrics.items()}


def reference_free_peer(trainer: Any, config: Any, folder: Any) -> Peer:
    """TRL's trainer of CPO or ORPO."""
    from datasets import Dataset

    theirs, _ = two_models()
    policy = copy.deepcopy(theirs)
    args = arguments(config, folder, max_length=64)
    return Peer(
        trainer(model=theirs, args=args, train_dataset=Dataset.from_list(TEXTS), processing_class=tokenizer()), theirs, policy
    )


def of_one_token(pairs: Sequence[dict[str, Any]] = PAIRS) -> list[dict[str, Any]]:
    """The pairs with prompts of one token, which nothing predicts: all losses over prompt and answer are over the answer."""
    return [{**pair, "prompt": pair["prompt"][-1:]} for pair in pairs]


def planted(kind: str) -> tuple[list[Any], list[Any]]:
    """Micro batches to learn from, and held-out ones."""
    draw = np.random.default_rng(0)

    def row(at: int) -> dict[str, Any]:
        side = int(draw.integers(2))
        prompt = np.array([1, *draw.integers(20, 40, draw.integers(1, 4)), 4 + side])
        answers = [np.array([*draw.integers(40 + 10 * of, 50 + 10 * of, draw.integers(1, 4)), 2]) for of in (side, 1 - side)]
        good = at % 2 == 0
        judged = {"completion": answers[0 if good else 1], "label": good}
        return {"prompt": prompt, "chosen": answers[0], "rejected": answers[1], **judged}

    train, held_out = ([row(at) for at in range(count)] for count in (512, 100))
    return tuple(micros(rows, kind, micro=32, mismatched=kind == "Unpaired") for rows in (train, held_out))  # type: ignore[return-value]
