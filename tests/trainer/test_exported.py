"""The merge-and-serve gate: what is written says what was trained, and a merge that is wrong is refused with its first layer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylm.core.errors import TrainingError
from raylm.model.adapters.lora import Lora
from raylm.model.head import Asks
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.train.batches import Batches
from raylm.trainer.check_export import CheckExport
from raylm.trainer.exported import check_export
from tests.model.tiny import tiny_checkpoint
from tests.parallel.loops import fixed_rows, make_loop
from tests.parallel.on_ranks import on_ranks


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory) -> str:
    return str(tiny_checkpoint(tmp_path_factory.mktemp("tokenizer")))


class Doubled(Lora):
    """LoRA that is merged at twice its scale."""

    def fold(self, layer: Any, parts: dict[str, Any]) -> dict[str, Any]:
        return super().fold(layer, {name: 2 * tensor if "lora_B." in name else tensor for name, tensor in parts.items()})


def trained(at: Path, tokenizer: str, strategy: Any, written: Lora | None = None, **table: Any) -> Any:
    """A loop after two steps whose weights lie in `at/out`, adapters merged as `written` says."""
    loop, _ = make_loop(strategy, at, steps=2, lr=5e-2, **table)
    loop.run()
    loop.setup = loop.setup.model_copy(update={"tokenizer_path": tokenizer})
    merges = loop.cfg.model_copy(update={"adapter": written}) if written else loop.cfg
    before, loop.cfg = loop.cfg, merges
    loop.export(loop.engine.bare.config)
    loop.cfg = before
    return loop


def samples(loop: Any, kind: str = "Dialogues") -> list[Any]:
    rows = Batches(fixed_rows(), kind, batch=5, micro=3, seed=0, pad_id=0, rank=0, world=1)
    return [loop.cfg.objective.inputs(one, 0) for one in rows.split(list(range(7)))]


@pytest.mark.parametrize("adapter", [{"rank": 4}, {"rank": 4, "use_dora": True}, None], ids=str)
def test_a_merged_model_with_a_tied_head_says_what_was_trained(tmp_path, tokenizer, adapter):
    loop = trained(tmp_path, tokenizer, Ddp(), adapter=adapter, ema=0.5)
    assert loop.engine.bare.config.tie_word_embeddings
    found = check_export(loop, samples(loop), Asks())
    assert found.facts["nats"] < 1e-5 and found.facts["allowed"] == 1e-4 and found.facts["samples"] == 7
    assert found.facts["tokens"] == sum(len(one.logprobs) for one in found.samples)
    # what is handed to an engine: each token that counts, by its place
    first = found.samples[0]
    model = loop.engine.bare
    with loop.engine.averages(), torch.no_grad():
        logprobs_TV = model(torch.tensor([first.tokens])).logits[0].log_softmax(-1)
    for place, said in first.logprobs.items():
        assert float(logprobs_TV[place - 1, first.tokens[place]]) == pytest.approx(said, abs=1e-4)


@pytest.mark.parametrize(
    ("kind", "objective", "asks"),
    [
        ("Labelled", {"kind": "classification", "num_labels": 3}, Asks(labels=3)),
        ("Pairs", {"kind": "reward"}, Asks(values=True)),
    ],
    ids=["labels", "values"],
)
def test_a_head_without_a_vocabulary_says_what_was_trained(tmp_path, tokenizer, kind, objective, asks):
    loop = trained(tmp_path, tokenizer, Ddp(), kind=kind, objective=objective)
    found = check_export(loop, samples(loop, kind), asks)
    assert found.facts["nats"] < 1e-5 and found.facts["tokens"] == (7 if kind == "Labelled" else 14) and not found.samples


def test_a_merge_of_another_scale_is_refused_with_its_first_layer(tmp_path, tokenizer):
    loop = trained(tmp_path, tokenizer, Ddp(), Doubled(rank=4, alpha=16, modules=["o_proj", "up_proj"]), adapter={
        "rank": 4, "alpha": 16, "modules": ["o_proj", "up_proj"],
    })  # fmt: skip
    with pytest.raises(
        TrainingError, match=r"log-probabilities of .* tokens in 7 sequences differ by .*\(computed in float32, "
    ) as caught:
        check_export(loop, samples(loop), Asks())
    assert "the first layer that differs is model.layers.0.self_attn.o_proj (by " in caught.value.what
    allowed = loop.cfg.model_copy(update={"check_export": CheckExport(max_nats=100)})
    loop.cfg = allowed
    assert check_export(loop, samples(loop), Asks()).facts["nats"] > 1e-3


def test_what_is_allowed_follows_what_is_computed_and_stored():
    card = CheckExport()
    pairs = [("float32", "F32"), ("float32", "BF16"), ("bfloat16", "F32"), ("float8", "BF16"), ("float32", "float32")]
    assert [card.allowed(*pair) for pair in pairs] == [1e-4, 2e-2, 2e-2, 1e-1, 1e-4]
    assert CheckExport(max_nats=0.5).allowed("float32", "F32") == 0.5


def wrong(rank: int, world: int, root: str, tokenizer: str) -> str:
    loop = trained(Path(root), tokenizer, Fsdp(), Doubled(rank=4, alpha=16), adapter={"rank": 4, "alpha": 16})
    with pytest.raises(TrainingError) as caught:
        check_export(loop, samples(loop), Asks())
    return caught.value.what


def test_all_ranks_refuse_in_the_same_words(tmp_path, tokenizer):
    first, other = on_ranks(2, wrong, str(tmp_path), tokenizer)
    assert first == other and "the first layer that differs is model.layers.0.self_attn.q_proj" in first
