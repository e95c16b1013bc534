"""A run whose folder is remote: files of sinks are there after the close, and a resumed run loses none."""

from __future__ import annotations

import tempfile
from pathlib import Path

import pytest

from raylm.core.storage import Folder
from raylm.trainer.watch.sinks.sink import Run
from raylm.trainer.watch.watch import Watch, Watching
from tests.trainer.watch.rows import falling

SINKS = Watch.model_validate({"sinks": [{"kind": "tensorboard"}, {"kind": "mlflow"}]})


@pytest.fixture
def out(tmp_path, monkeypatch):
    """A remote folder; whatever is left on this machine lies in `tmp_path`."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    folder = Folder(f"memory://{tmp_path.name}/job/base")
    yield folder
    folder.remove()


def _watched(out: Folder, steps: range, said: list[str]) -> None:
    watching = Watching(SINKS, Run("job/base", out.uri, {"steps": 60}), said.append)
    for row in falling()[steps.start : steps.stop]:
        watching.row(row["step"], row)
    watching.close()


def test_files_are_in_the_folder_and_nowhere_else(out, tmp_path):
    out.write("metrics.jsonl", "kept")
    _watched(out, range(3), said := [])
    _watched(out, range(3, 5), said)
    files = out.files()
    assert {name.split("/")[0] for name in files} == {"metrics.jsonl", "tensorboard", "mlruns"} and said == []
    assert sum(name.startswith("tensorboard/") for name in files) == 2
    (loss,) = [name for name in files if name.endswith("/metrics/loss")]
    assert [line.split()[2] for line in out.read(loss).decode().splitlines()] == ["0", "1", "2", "3", "4"]
    assert list(tmp_path.iterdir()) == []


def test_links_are_not_uploaded(out):
    watching = Watching(SINKS, Run("job/base", out.uri, {}), print)
    (Path(watching._local.uri) / "debug.log").symlink_to("/nowhere")
    watching.close()
    assert "debug.log" not in out.files() and len(out.files()) > 2


def test_what_cannot_be_uploaded_stays_and_ends_no_run(out, tmp_path, monkeypatch):
    watching = Watching(SINKS, Run("job/base", out.uri, {}), (said := []).append)
    watching.row(0, falling(1)[0])

    def refuse(folder, name, content):
        raise ConnectionError("no route")

    monkeypatch.setattr(Folder, "write", refuse)
    watching.close()
    assert said == [f"the sinks' files stay in {watching._local.uri}: no route"]
    assert list(tmp_path.rglob("metrics/loss"))
