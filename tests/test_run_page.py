"""The page of a run says what is true while it runs, when it fails and when it is done; hostile names stay text."""

from __future__ import annotations

import html
import re
from pathlib import Path

import pytest

from raylm import job
from raylm.core.artifact import Documents, Tokens, open_artifact
from raylm.core.errors import StageError
from raylm.core.storage import Folder
from raylm.run_page import PAGE, RECORD, RunPage, page_of
from tests.stages import context
from tests.test_job import finish, write


def page_text(folder: Folder) -> str:
    return folder.read(PAGE).decode()


def states(folder: Folder) -> dict[str, str]:
    return dict(re.findall(r'<h3>(\w+)<span class="badge (\w+)">', page_text(folder)))


def test_a_page_follows_its_run(tmp_path):
    loaded = job.load(write(tmp_path))
    folder = Folder(tmp_path / "t")
    finish(tmp_path, loaded, "docs", Documents)
    page = RunPage(folder, job.plan(loaded), "raylm run jobs/t.toml")
    page.write()
    assert states(folder) == {"docs": "done", "tokens": "new", "base": "new"}
    page.begin("tokens")
    assert states(folder)["tokens"] == "running" and "running since 20" in page_text(folder)

    finish(tmp_path, loaded, "tokens", Tokens)
    page.end("tokens", open_artifact(folder / "tokens"))
    page.begin("base")
    with pytest.raises(StageError), page.failing("base"):
        raise StageError("loss <nan>", where="stages.base")
    assert states(folder) == {"docs": "done", "tokens": "done", "base": "failed"}
    shown = page_text(folder)
    assert "loss &lt;nan&gt;" in shown and "raylm run jobs/t.toml" in shown
    fingerprint = open_artifact(folder / "docs").fingerprint
    assert shown.count(fingerprint) == 2, "its own row of the lineage, and what tokens was made from"
    assert 'href="tokens/manifest.json"' in shown and "://" not in shown

    times = folder.read_json(RECORD)
    assert times["tokens"]["state"] == "done" and times["base"]["error"].endswith("loss <nan>")
    again = RunPage(folder, job.plan(loaded), "")
    again.write()
    assert states(folder) == {"docs": "done", "tokens": "done", "base": "failed"}


def test_a_stage_whose_process_was_killed_goes_on(tmp_path):
    loaded = job.load(write(tmp_path))
    folder = Folder(tmp_path / "t")
    RunPage(folder, job.plan(loaded), "").begin("docs")
    RunPage(folder, job.plan(loaded), "").write()
    assert states(folder)["docs"] == "stopped"
    page = RunPage(folder, job.plan(loaded), "")
    page.begin("docs")
    with pytest.raises(KeyboardInterrupt), page.failing("docs"):
        raise KeyboardInterrupt
    assert states(folder)["docs"] == "stopped"


def test_before_stands_beside_after_and_tables_are_shown(tmp_path):
    loaded = job.load(write(tmp_path))
    ctx = context(tmp_path / "t", "docs", loaded.stages["docs"])
    ctx.out.write("report.html", "<p>all of it")
    grades = {"<base>": {"bits_per_byte": 2.5}, "sft": {"bits_per_byte": 2.25, "answers": 0.5}}
    made = ctx.commit(Documents, facts={"passed": True}, metrics={"rows_in": 1300, "rows": 1200, "grades": grades})
    page = RunPage(Folder(tmp_path / "t"), job.plan(loaded), "")
    page.end("docs", made)
    shown = page_text(Folder(tmp_path / "t"))
    assert '<td>rows</td><td class=n>1,300</td><td class="n">1,200</td>' in shown
    assert "&lt;base&gt;" in shown and "<base>" not in shown and "gate of docs" in shown
    assert 'href="docs/report.html"' in shown


def test_names_are_text_and_links(tmp_path):
    hostile = '<script>alert("x")</script>'
    text = write(tmp_path).read_text().replace("docs", "d<b> s")
    text = text.replace("[stages.d<b> s]", '[stages."d<b> s"]').replace("*.txt", "*.txt").replace(str(tmp_path), "/r")
    path = tmp_path / "hostile.toml"
    path.write_text(text.replace('glob = "/r/*.txt"', f"glob = '/r/{hostile}'"))
    loaded = job.load(path)
    folder = Folder(tmp_path / "page")
    RunPage(folder, job.plan(loaded), f"raylm run '{hostile}'").write()
    shown = page_text(folder)
    assert "<script" not in shown and html.escape(hostile) in shown
    assert 'href="#stage-d%3Cb%3E%20s"' in shown and 'id="stage-d%3Cb%3E%20s"' in shown


def test_a_page_in_a_bucket_is_written_too(tmp_path):
    loaded = job.load(write(tmp_path))
    folder = Folder("memory://runs/t")
    RunPage(folder, job.plan(loaded), "").begin("docs")
    assert states(folder)["docs"] == "running"
    assert page_of(loaded) == str(Path(tmp_path, "t", PAGE))


@pytest.mark.parametrize("text", ["", "null", "{", "[1]", '{"docs": 3}'])
def test_a_broken_record_is_begun_anew(tmp_path, text):
    loaded = job.load(write(tmp_path))
    folder = Folder(tmp_path / "t")
    folder.make().write(RECORD, text)
    RunPage(folder, job.plan(loaded), "").begin("docs")
    assert states(folder)["docs"] == "running"


def test_a_page_that_cannot_be_written_hides_no_error_and_says_so_once(tmp_path, capsys):
    class Full(Folder):
        def writing(self, name):
            raise OSError(28, "No space left on device")

    loaded = job.load(write(tmp_path))
    page = RunPage(Full(tmp_path / "t"), job.plan(loaded), "")
    page.begin("docs")
    with pytest.raises(StageError, match="the stage's own"), page.failing("docs"):
        raise StageError("the stage's own")
    page.end("docs", finish(tmp_path, loaded, "docs", Documents) or open_artifact(Folder(tmp_path / "t" / "docs")))
    assert capsys.readouterr().err.count("the page of this run cannot be written: OSError") == 1


def test_half_a_surrogate_pair_can_be_written(tmp_path):
    loaded = job.load(write(tmp_path))
    page = RunPage(Folder(tmp_path / "t"), job.plan(loaded), "")
    page.begin("docs")
    with pytest.raises(StageError), page.failing("docs"):
        raise StageError("text \ud800 end")
    assert states(Folder(tmp_path / "t"))["docs"] == "failed" and "text ? end" in page_text(Folder(tmp_path / "t"))
    assert Folder(tmp_path / "t").read_json(RECORD)["docs"]["state"] == "failed"
