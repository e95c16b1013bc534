"""Stored scores of the reference: training with them is training with a live one, and each is made once."""

from __future__ import annotations

import pytest
import torch
from pydantic import ValidationError

from raylm.core.artifact import Pairs
from raylm.core.errors import ConfigError
from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.data.shards import Rows
from raylm.model.adapters.lora import Lora
from raylm.model.scores import token_logprobs
from raylm.parallel.strategies.ddp import Ddp
from raylm.train.batches import Batches
from raylm.train.config import Train
from raylm.train.objectives.dpo import Dpo
from raylm.train.objectives.kto import Kto
from raylm.train.objectives.objective import REFERENCE
from raylm.train.reference import Reference, check_stored
from raylm.train.stage import prepared, run
from raylm.trainer import stored_scores
from tests.model.tiny import tiny_checkpoint
from tests.parallel.loops import SHAPE, fixed_rows, make_loop
from tests.rows import make_rows
from tests.stages import context


def stage(**table) -> Train:
    usual = {"stage": "train", "rows": "pairs", "model": SHAPE, "objective": {"kind": "dpo"}, "batch": 5, "micro_batch": 2}
    usual |= {"workers": {"count": 2}}
    return Train(**{**usual, "steps": 3, "optimizer": {"lr": 1e-2}, "held_out_rows": 3, "strategy": {"kind": "ddp"}, **table})


@pytest.fixture
def root(tmp_path):
    rows = [{side: row[side].tolist() for side in ("prompt", "chosen", "rejected")} for row in fixed_rows()]
    make_rows(tmp_path, "pairs", Pairs, rows)
    return tmp_path


@pytest.mark.parametrize("padding_free", [False, True])
def test_a_loop_with_stored_scores_does_what_one_with_a_live_reference_does(tmp_path, padding_free):
    """Without a reference, and beside an adapter, whose base is the reference."""
    for adapter in ({}, {"adapter": {"rank": 2}}):
        table = {"kind": "Pairs", "objective": Dpo(), "padding_free": padding_free, **adapter}
        live, seen = make_loop(Ddp(), tmp_path / f"live{len(adapter)}", **table)
        scored = []
        for index in range(23):
            (micro,) = live.batches.split([index])
            inputs = Dpo().inputs(micro, 0)
            (scores,) = live.forward_reference([inputs])
            sums = micro.sums(scores.logprob_BT * inputs.weight_BT)
            scored.append({**live.batches.rows[index], "scores": {REFERENCE: sums.numpy()}})
        stored, others = make_loop(Ddp(), tmp_path / f"stored{len(adapter)}", **table)
        stored.batches._rows, stored.reference = scored, None
        stored.forward_reference = None
        expected, found = live.run(), stored.run()
        assert [row["loss"] for row in others] == pytest.approx([row["loss"] for row in seen], abs=1e-6)
        assert found == pytest.approx(expected, abs=1e-6)


def test_rows_are_scored_by_the_start_each_as_if_alone(root):
    cfg, setup, (part,) = prepared(stage(), context(root, "policy"))
    rows = [Rows.open(part.uri, "train")[at] for at in range(9)]
    found = Reference.of(cfg, setup).score(rows)
    model = cfg.model.build(setup.tokens, cfg.seed).eval()
    for row, scored in zip(rows, found, strict=True):
        (micro,) = Batches([row], "Pairs", batch=1, micro=1, seed=0, pad_id=0, rank=0, world=1).split([0])
        with torch.no_grad():
            alone = (token_logprobs(model, micro).double() * micro.weight_BT).sum(1)
        assert scored[REFERENCE].tolist() == pytest.approx(alone.tolist(), abs=1e-5)
    other = stage(model={**SHAPE, "hidden_size": 16})
    assert Reference.of(other, setup).identity() != Reference.of(cfg, setup).identity()
    assert Reference.of(stage(adapter={"rank": 2}), setup).identity() != Reference.of(cfg, setup).identity()
    assert Reference.of(stage(optimizer={"lr": 1.0}, batch=7), setup).identity() == Reference.of(cfg, setup).identity()


def test_beside_an_adapter_that_is_gone_on_with_the_reference_is_where_training_begins(root):
    """Not the model below it, from which the policy differs before its first step."""
    _, setup, (part,) = prepared(stage(), context(root, "policy"))
    begun = Lora(rank=2).attach(stage().model.build(setup.tokens, 0), 1)
    trained = {name: p for name, p in begun.named_parameters() if p.requires_grad}
    for p in trained.values():
        p.data.normal_(std=0.3)
    Lora(rank=2).save(begun, trained, "", root / "adapter")
    for adapter in ({"path": str(root / "adapter")}, {"init_lora_weights": "pissa"}):
        with pytest.raises(ValidationError, match=r'the reference would be the model without its adapter.*reference = "stored"'):
            stage(adapter=adapter)
    cfg = stage(reference="stored", adapter={"path": str(root / "adapter")})
    assert cfg.adapter is not None
    cfg = cfg.model_copy(update={"adapter": cfg.adapter.opened(str(root / "adapter"), "")})
    row = Rows.open(part.uri, "train")[0]
    (scored,) = Reference.of(cfg, setup).score([row])
    (micro,) = Batches([row], "Pairs", batch=1, micro=1, seed=0, pad_id=0, rank=0, world=1).split([0])
    with torch.no_grad():
        start = (token_logprobs(begun.eval(), micro).double() * micro.weight_BT).sum(1)
        with begun.disable_adapter():
            below = (token_logprobs(begun, micro).double() * micro.weight_BT).sum(1)
    assert scored[REFERENCE].tolist() == pytest.approx(start.tolist(), abs=1e-4) and (start - below).abs().max() > 1e-2


def test_what_cannot_be_stored_is_refused():
    with pytest.raises(ConfigError, match="beside other prompts, which each batch mixes anew"):
        check_stored(stage(reference="stored").model_copy(update={"objective": Kto()}))
    with pytest.raises(ConfigError, match="nothing that could be stored"):
        check_stored(stage(reference="stored", objective={"kind": "next_token"}))


@pytest.mark.ray
def test_a_stage_that_stores_them_trains_as_one_with_a_live_reference_and_a_second_one_makes_none(root, workers, monkeypatch):
    tiny_checkpoint(root / "start")
    monkeypatch.setattr(stored_scores, "UNIT_TOKENS", 8 * 1024)
    table = {"model": str(root / "start")}
    live = run(stage(**table), context(root, "live", stage(**table), workers))
    cfg = stage(**table, reference="stored")
    # what a driver that was killed between two units leaves: files and marks of those that were done, and no end
    _, setup, _ = prepared(cfg, context(root, "policy", cfg, workers))
    (folder,) = (Folder(uri) for uri in setup.scores)
    before = {name: folder.digest(name) for name in folder.files() if name.endswith(".arrow")}
    folder.remove("scores.json")
    (root / ".scores" / folder.uri.rsplit("/")[-1] / "train-00001.arrow").unlink()
    for mark in (root / ".scores").rglob("scores-00001.json"):
        mark.unlink()
    made = run(cfg, context(root, "stored", cfg, workers))
    assert {name: folder.digest(name) for name in folder.files() if name.endswith(".arrow")} == before and len(before) > 2
    assert made.metrics["held_out_loss_after"] == pytest.approx(live.metrics["held_out_loss_after"], abs=1e-6)
    rows = [[row["loss"] for row in read_metrics(Folder(root / name))] for name in ("stored", "live")]
    assert rows[0] == pytest.approx(rows[1], abs=1e-6)
