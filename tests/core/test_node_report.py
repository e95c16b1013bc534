"""What machines say of themselves."""

from __future__ import annotations

import pytest

from raylm.core.artifact import versions
from raylm.core.node_report import NodeReport, ask_nodes, differing
from raylm.core.storage import Folder

ONE = NodeReport("10.0.0.3", versions(), True, (-0.1, 0.1), 10.0, 8.0, [], "eth0")


def test_packages_that_differ_are_named_with_their_machine():
    assert differing([ONE]) == []
    other = {**versions(), "torch": "2.12.0"}
    del other["ray"]
    told = differing([ONE, ONE._replace(address="10.0.0.4", versions=other)])
    assert [line.partition(",")[0] for line in told] == ["10.0.0.4 has ray not installed", "10.0.0.4 has torch 2.12.0"]


@pytest.mark.ray
def test_a_machine_answers_for_itself(workers, tmp_path):
    workers.ensure()
    (tmp_path / "there").write_text("")
    reports, silent = ask_nodes(Folder(tmp_path), "there", here_too=True)
    assert silent == []
    (report,) = reports
    assert (report.sees, differing(reports)) == (True, [])
    assert report.ahead_s[0] <= 0 <= report.ahead_s[1]
    assert report.disk_gb > 0 and report.memory_gb > 0
    assert ask_nodes(Folder(tmp_path), "not there", here_too=True)[0][0].sees is False
