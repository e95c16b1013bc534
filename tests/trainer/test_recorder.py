"""What a stage shows of itself: rows go everywhere, a rewind takes back what the checkpoint did not know."""

from __future__ import annotations

from raylm.core.metrics import read_metrics
from raylm.core.storage import Folder
from raylm.train.config import Train
from raylm.trainer.history import History
from raylm.trainer.recorder import Recorder
from tests.parallel.loops import SHAPE
from tests.stages import context


def test_rows_that_a_checkpoint_did_not_know_are_taken_back_everywhere(tmp_path):
    cfg = Train(stage="train", rows="rows", model=SHAPE, batch=1, steps=4, watch={"sinks": [{"kind": "tensorboard"}]})
    ctx = context(tmp_path, "base")
    with Recorder(cfg, ctx, 4, "steps", ("loss",)) as recorder:
        recorder.from_ranks("rewind", 0)
        history = History(ctx.work)
        for step in range(3):
            row = {"step": step, "loss": 3.0 - step, "tokens_per_s": 10.0 * (step + 1)}
            recorder.from_ranks("row", row)
            history.add(row)
            if step == 1:
                history.cut(2).put()
        assert [row["step"] for row in read_metrics(ctx.out)] == [0, 1, 2]
        recorder.from_ranks("rewind", 2)
        assert read_metrics(ctx.out) == [{"step": at, "loss": 3.0 - at, "tokens_per_s": 10.0 * (at + 1)} for at in range(2)]
        recorder.row(2, {"loss": 0.5, "tokens_per_s": 30.0})
    found = recorder.metrics("loss")
    assert (found["loss_first"], found["loss_last"], found["tokens_per_s"]) == (3.0, 0.5, 20.0)
    assert (found["lost_steps"], found["restarts"]) == (1, 1)
    recorder.report({"parameters": 7})
    assert "base" in (tmp_path / "base" / "report.html").read_text()
    assert list(tmp_path.rglob("events.out.tfevents*"))
    assert Folder(ctx.work.uri).files()
