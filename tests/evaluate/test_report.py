"""The evaluation report: the road it finds, and the page it writes."""

from __future__ import annotations

import base64
import re

from raylm.core.artifact import Checkpoint
from raylm.core.config import CheckpointRef, StageConfig
from raylm.evaluate import report
from tests.stages import context

GRADES = {"gzip -9": {"bits": 3.25}, "<base>": {"bits": 2.5, "answers": 0.5}}
BETTER = {"bits": "low", "answers": "high"}


class Next(StageConfig):
    model: CheckpointRef


def checkpoints(root):
    """base <- tuned <- small, and base <- other; two of them have curves."""
    for name, cfg in (
        ("base", None),
        ("tuned", Next(model="base")),
        ("small", Next(model="tuned")),
        ("other", Next(model="base")),
    ):
        ctx = context(root, name, cfg)
        for step in range(3) if name in ("base", "tuned") else ():
            ctx.log(step, loss=3.0 - step, tokens_per_s=1.0)
        yield ctx.commit(Checkpoint, facts={})


def test_the_road_goes_back_over_all_inputs_oldest_first(tmp_path):
    _base, _tuned, small, other = checkpoints(tmp_path)
    assert [found.manifest.stage for found in report.road([other, small])] == ["base", "other", "tuned", "small"]
    assert [found.manifest.stage for found in report.road([small])] == ["base", "tuned", "small"]


def test_the_picture_has_a_panel_per_curve(tmp_path):
    base, tuned, small, _ = checkpoints(tmp_path)
    two, one, none = report.picture([base, tuned, small]), report.picture([base]), report.picture([small])
    assert {image[:8] for image in (two, one, none)} == {b"\x89PNG\r\n\x1a\n"}
    width = [int.from_bytes(image[16:20], "big") for image in (two, one, none)]
    assert width[0] == 2 * width[1] == 2 * width[2]
    assert report.picture([base]) == one


def test_the_page_holds_table_notes_and_picture():
    page = report.page("run 1", GRADES, BETTER, b"\x89PNG picture", ["small <b> costs"])
    rows = re.findall(r"<tr>(.*?)</tr>", page)
    assert [re.sub(r"<[^>]+>", "|", row) for row in rows[1:]] == ["|gzip -9||3.2500||-|", "|&lt;base&gt;||2.5000||0.5000|"]
    assert "bits<br><small>low is better" in rows[0]
    assert "<li>small &lt;b&gt; costs</li>" in page
    assert base64.b64decode(re.search(r'src="data:image/png;base64,([^"]+)"', page).group(1)) == b"\x89PNG picture"
    assert not re.search(r'(src|href)="(?!data:)', page)


def test_the_terminal_shows_the_same_table():
    shown = report.table(GRADES, BETTER)
    assert [list(column.cells) for column in shown.columns] == [["gzip -9", "<base>"], ["3.2500", "2.5000"], ["-", "0.5000"]]
