"""Metrics: one row a step, whatever happened in between."""

from raylm.core.metrics import MetricLog, Progress, read_metrics
from raylm.core.storage import Folder


def test_rows_are_on_file_at_once(tmp_path):
    log = MetricLog(Folder(tmp_path))
    log.add(0, {"loss": 2.0})
    log.add(1, {"loss": 1.5})
    assert read_metrics(Folder(tmp_path)) == [{"step": 0, "loss": 2.0}, {"step": 1, "loss": 1.5}]


def test_a_resume_replaces_the_history(tmp_path):
    log = MetricLog(Folder(tmp_path))
    for step in range(4):
        log.add(step, {"loss": 1.0})
    log.rewrite([{"step": 0, "loss": 1.0}])
    log.add(1, {"loss": 0.5})
    assert [row["step"] for row in read_metrics(Folder(tmp_path))] == [0, 1]


def test_a_line_cut_by_a_crash_is_left_out(tmp_path):
    (tmp_path / "metrics.jsonl").write_text('{"step": 0, "loss": 1.0}\n{"step": 1, "lo')
    assert read_metrics(Folder(tmp_path)) == [{"step": 0, "loss": 1.0}]


def test_object_stores_get_the_whole_file_at_a_flush():
    folder = Folder("memory://metrics-test")
    log = MetricLog(folder)
    log.add(0, {"loss": 1.0})
    assert read_metrics(folder) == []
    log.flush()
    assert read_metrics(folder) == [{"step": 0, "loss": 1.0}]
    folder.remove()


def test_progress_says_rate_and_time_left(capsys):
    with Progress("base", 100, "steps", every_s=0.0) as bar:
        bar.to(10, loss=2.0)
        bar.to(20, loss=1.23456)
    shown = capsys.readouterr().err
    assert "base: 20/100 steps" in shown
    assert "s left" in shown
    assert "loss 1.235" in shown
