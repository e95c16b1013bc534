"""Figures by hand, and a picture that is one."""

from __future__ import annotations

from xml.etree import ElementTree

from raylm.serve.scaling.replay.report import figures, percentile, picture, table
from raylm.serve.scaling.replay.simulate import Moment, Replay, Served


def replay(name: str) -> Replay:
    served = [Served(float(n), 0.1 * (n + 1), 5.0) for n in range(8)] + [Served(8.0, None, None, True), Served(9.0, None, None)]
    moments = [Moment(0.0, 1, 0, 2, 10, 0), Moment(1.0, 1, 2, 3, 50, 1), Moment(10.0, 3, 0, 0, 0, 0)]
    decisions = [{"at": 1.0, "before": 1, "replicas": 3}, {"at": 9.0, "before": 3, "replicas": 1}]
    return Replay(name, served, moments, decisions, 21.0)


def test_requests_without_a_first_token_are_late():
    found = figures(replay("tokens"), 0.5)
    # 0.1 to 0.8 s: five of ten in time
    assert found == {
        "name": "tokens", "requests": 10, "refused": 1, "in_time": 0.5, "ttft_p50": 0.4, "ttft_p90": 0.8, "ttft_p99": 0.8,
        "replica_s": 21.0, "most": 3, "ups": 1, "downs": 1,
    }  # fmt: skip


def test_percentiles():
    assert [percentile([1.0, 2.0, 3.0, 4.0], part) for part in (0.5, 0.75, 0.76, 1.0)] == [2.0, 3.0, 4.0, 4.0]
    assert percentile([], 0.5) is None


def test_the_table_has_a_line_for_each_policy():
    lines = table([figures(replay(name), 0.5) for name in ("tokens", "ongoing")])
    assert len(lines) == 3 and len({len(line) for line in lines}) == 1 and lines[1].startswith("tokens ")


def test_the_picture_has_a_curve_of_each_policy_in_each_panel():
    svg = ElementTree.fromstring(picture([replay("a<b"), replay("ongoing")], 0.5))
    curves = [each for each in svg.iter() if each.tag.endswith("path") and each.get("stroke-width")]
    assert len(curves) == 6
    texts = [each.text for each in svg.iter() if each.tag.endswith("text")]
    assert "a<b" in texts and "replicas that run" in texts
