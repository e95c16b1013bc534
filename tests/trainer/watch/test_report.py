"""The training report: curves and events, robust to odd numbers."""

from __future__ import annotations

from matplotlib.axes import Axes

from raylm.core.storage import Folder
from raylm.trainer.watch.alerts import Alert
from raylm.trainer.watch.report import _points, _smoothed, curves, write_report
from tests.trainer.watch.rows import falling


def test_the_page_holds_curves_events_and_facts(tmp_path):
    rows = falling(40)
    rows[7] |= {"event": "step 7 was passed over", "loss": float("nan"), "loss/web": 1.0, "checkpoint_stall_s": 0.02}
    rows[8] |= {"loss/web": 1.1, "grad_norm": float("inf")}
    write_report(Folder(tmp_path), "job/base", rows, {"steps": 40}, [Alert(9, "spike", "look <here>")])
    page = (tmp_path / "report.html").read_text()
    assert "data:image/png;base64," in page and "step 7 was passed over" in page and "look &lt;here&gt;" in page
    assert "1 step checkpoints held training up for 0.02 s" in page


def test_an_rl_run_has_its_curves_together_and_its_samples(tmp_path, monkeypatch):
    drawn, really = {}, Axes.plot

    def plot(axes, *values, label="", **how):
        drawn.setdefault(axes.get_subplotspec().num1, []).append(label)
        return really(axes, *values, label=label, **how)

    monkeypatch.setattr(Axes, "plot", plot)
    rows = [
        {"step": at, "reward": 0.1 * at, "reward/answer": 0.1, "reward/form": 0.0, "generate_s": 1.0, "idle_s": 0.5}
        for at in range(4)
    ]
    rows[2]["held_out_reward"] = 0.3  # one point is no curve of its own
    write_report(Folder(tmp_path), "job/policy", rows, {}, [], [("Samples", "<i>all of them</i>"), ("None", "")])
    assert list(drawn.values()) == [["reward"], ["answer", "form"], ["generate_s", "idle_s"]]
    page = (tmp_path / "report.html").read_text()
    assert "<h2>Samples</h2>" in page and "<i>all of them</i>" in page and "<h2>None</h2>" not in page


def test_a_run_of_one_step_and_one_without_rows(tmp_path):
    write_report(Folder(tmp_path), "job/base", falling(1), {}, [])
    assert (tmp_path / "report.html").exists()
    write_report(Folder(tmp_path / "none"), "job/base", [], {}, [])
    assert not (tmp_path / "none").exists()


def test_points_are_thinned_and_medians_run():
    steps, values = _points(falling(5000), "loss")
    assert len(steps) <= 2000 and steps[0] == 0 and len(steps) == len(values)
    assert _smoothed([1.0, 9.0, 1.0, 1.0]) == [1.0, 5.0, 1.0, 1.0]
    assert curves(falling(3))[:4] == b"\x89PNG"
