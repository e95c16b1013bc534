"""Requests that have ended: a line of each, without what was said unless it is asked for."""

from __future__ import annotations

import asyncio
import json
import stat
import threading

from raylm.core.storage import Folder
from raylm.serve import audit
from raylm.serve.audit import Audit, AuditLog, audit_folder
from raylm.serve.guards.guard import Visit
from raylm.serve.usage import Done

DONE = Done(Visit("d1gest", "POST", "/v1/completions", 30, "alice", "7"), 200, 5, 3, 1.23456, 0.5)


def test_who_asked_for_how_much(tmp_path):
    folder = audit_folder(Folder(tmp_path / "job" / "api"))
    for text in (False, True):
        AuditLog(folder, Audit(text=text, text_bytes=9)).write(DONE, "m", b'{"prompt": "secret"}')
    files = sorted((tmp_path / "job" / ".audit" / "api").glob("*.jsonl"))
    assert len(files) == 2 and all(stat.S_IMODE(file.stat().st_mode) == 0o600 for file in files)
    lines = sorted((json.loads(file.read_text()) for file in files), key=len)
    assert lines[1].pop("body") == '{"prompt"'
    for line in lines:
        assert line.pop("time")
        assert line == {
            "key": "alice", "method": "POST", "path": "/v1/completions", "model": "m", "status": 200, "prompt_tokens": 5,
            "completion_tokens": 3, "first_s": 0.5, "seconds": 1.235, "request": "7", "served": "",
        }  # fmt: skip


def test_a_disk_that_takes_nothing_costs_the_line_alone(tmp_path, caplog):
    (tmp_path / "file").write_text("")
    AuditLog(str(tmp_path / "file" / "below"), Audit()).write(DONE, "m", b"")
    assert "the audit log cannot be written" in caplog.text
    assert audit_folder(Folder("s3://bucket/job/api")) == ""


def test_bytes_that_are_no_text_cost_nobody_a_line(tmp_path):
    log = AuditLog(str(tmp_path), Audit())
    log._write(
        [log._line(DONE, "m", b""), log._line(DONE._replace(visit=DONE.visit._replace(path="/v1/models/\udcff")), "m", b"")]
    )
    (file,) = tmp_path.glob("*.jsonl")
    assert [json.loads(line)["path"] for line in file.read_text().splitlines()] == ["/v1/completions", "/v1/models/\udcff"]


def test_a_disk_that_hangs_costs_lines_and_no_memory(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(audit, "MOST_LINES", 3)
    log, hangs, write = AuditLog(str(tmp_path), Audit()), threading.Event(), AuditLog._write
    monkeypatch.setattr(AuditLog, "_write", lambda self, lines: (hangs.wait(10), write(self, lines)))

    async def run():
        asked = [asyncio.create_task(log.append(DONE, "m", b"")) for _ in range(9)]
        await asyncio.sleep(0.01)
        assert len(log._lines) == 3
        hangs.set()
        await asyncio.gather(*asked)

    asyncio.run(run())
    (file,) = tmp_path.glob("*.jsonl")
    assert len(file.read_text().splitlines()) == 4 and "lacks 5 lines" in caplog.text
