"""Export of models that are sharded over ranks: what is written is whole and loads again."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch

from raylm.core.storage import Folder
from raylm.model.head import Asks
from raylm.model.load import freeze_unread, load_model
from raylm.model.weight_files import weight_names
from raylm.parallel.strategies.ddp import Ddp
from raylm.parallel.strategies.fsdp import Fsdp
from raylm.trainer.export import write_streamed
from raylm.trainer.exported import check_export
from tests.model.tiny import tiny_checkpoint, tiny_composite
from tests.parallel.loops import SHAPE, make_loop
from tests.parallel.on_ranks import on_ranks
from tests.trainer.test_exported import samples

MODEL = {"kind": "qwen3", **SHAPE, "num_kv_heads": 2, "num_layers": 4}


def exported(rank: int, world: int, strategy: Any, mesh: dict[str, Any], root: str) -> dict[str, Any]:
    """Two steps, then a checkpoint in `root/out`; losses of the held-out rows and the weights."""
    loop, _ = make_loop(strategy, Path(root) / "work", steps=2, mesh=mesh, model=MODEL)
    loop.run()
    write_streamed(loop.engine, Folder(root) / "out", loop.engine.bare.config, str(Path(root) / "tokenizer"))
    loop.setup = loop.setup.model_copy(update={"out": (Folder(root) / "out").uri})
    checked = check_export(loop, samples(loop), Asks())
    return {"weights": loop.engine.weights(), "loss": loop.evaluate()["held_out_loss"], "checked": checked.facts}


def measured(rank: int, world: int, root: str) -> float:
    """Held-out loss of what lies in `root/out`, on one rank."""
    loop, _ = make_loop(Ddp(), Path(root) / "again", model=load_model(str(Path(root) / "out"), "float32"))
    return loop.evaluate()["held_out_loss"]


@pytest.mark.parametrize(
    ("world", "strategy", "mesh"),
    [
        (2, Ddp(), {"tensor": 2}),
        (2, Ddp(), {"context": 2}),
        (2, Ddp(), {"pipeline": 2, "schedule": "interleaved"}),
        (8, Fsdp(), {"tensor": 2, "context": 2, "pipeline": 2}),
        (2, Fsdp(), {}),
    ],
    ids=["tensor", "context", "pipeline", "all", "shards"],
)
def test_what_is_exported_is_whole(tmp_path, world, strategy, mesh):
    tiny_checkpoint(tmp_path / "tokenizer")
    found = on_ranks(world, exported, strategy, mesh, str(tmp_path))
    stored = load_model(str(tmp_path / "out"), "float32").state_dict()
    assert stored.keys() == found[0]["weights"].keys()
    # the head is one with the embedding however both were cut: it is stored once
    assert "lm_head.weight" not in weight_names(tmp_path / "out")
    assert found[0]["checked"]["nats"] < 1e-5 and found[0]["checked"]["samples"] == 7
    for name, tensor in found[0]["weights"].items():
        assert torch.equal(stored[name], tensor), name
    assert on_ranks(1, measured, str(tmp_path))[0] == pytest.approx(found[0]["loss"], abs=1e-6)


def composite(rank: int, world: int, strategy: Any, root: str) -> float:
    """Two steps of a model with a vision tower, then a checkpoint in `root/out`; its held-out loss."""
    model = load_model(str(Path(root) / "start"), "float32")
    freeze_unread(model)
    loop, _ = make_loop(strategy, Path(root) / "work", steps=2, model=model)
    before = loop.evaluate()["held_out_loss"]
    loop.run()
    write_streamed(loop.engine, Folder(root) / "out", model.config, str(Path(root) / "tokenizer"), base=str(Path(root) / "start"))
    found = loop.evaluate()["held_out_loss"]
    assert found < before
    return found


@pytest.mark.parametrize("strategy", [Ddp(), Fsdp()], ids=["ddp", "fsdp"])
def test_the_text_part_of_a_composite_model_trains_on_two_ranks(tmp_path, strategy):
    tiny_checkpoint(tmp_path / "tokenizer")
    start = tiny_composite("gemma3")
    start.save_pretrained(tmp_path / "start")
    found = on_ranks(2, composite, strategy, str(tmp_path))[0]
    assert on_ranks(1, measured, str(tmp_path))[0] == pytest.approx(found, abs=1e-6)
    stored = load_model(str(tmp_path / "out"), "float32").state_dict()
    changed = {name for name, tensor in start.state_dict().items() if not tensor.equal(stored[name])}
    assert changed and not [name for name in changed if "vision" in name or "projector" in name]
