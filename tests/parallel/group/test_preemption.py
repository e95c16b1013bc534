"""Preemption notices: which files, URLs and signals count as one."""

from __future__ import annotations

import http.server
import signal
import subprocess
import sys
import threading

import pytest

from raylm.parallel.group.preemption import Notice, announced


def test_a_file_that_appears_is_a_notice_one_that_stood_there_is_not(tmp_path):
    at = tmp_path / "notice"
    fresh = Notice(str(at))
    fresh._look_at()
    assert fresh.reason == ""
    at.touch()
    fresh._look_at()
    assert fresh.reason == f"a notice stands at {at}"
    later = Notice(str(at))
    later._look_at()
    assert later.reason == "", "it was meant for the process before"
    at.unlink()
    later._look_at()
    at.touch()
    later._look_at()
    assert later.reason


@pytest.mark.parametrize(("status", "body", "is_notice"), [(200, "terminate", True), (200, "FALSE", False), (404, "x", False)])
def test_a_url_that_answers_is_a_notice(status, body, is_notice):
    class Metadata(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body.encode())

        def log_message(self, *_):
            pass

    server = http.server.HTTPServer(("127.0.0.1", 0), Metadata)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    url = f"http://127.0.0.1:{server.server_port}/preempted"
    assert announced(url) is is_notice
    server.shutdown()
    server.server_close()
    assert not announced(url), "nobody answers"


CODE = """
import os, signal, time
from raylm.parallel.group.preemption import Notice
notice = Notice()
notice.busy = {busy}
signal.signal(signal.SIGTERM, notice.on_signal)
os.kill(os.getpid(), signal.SIGTERM)
print(notice.reason, flush=True)
os.kill(os.getpid(), signal.SIGTERM)
print("not reached")
"""


@pytest.mark.parametrize(("busy", "said"), [(True, "received SIGTERM\n"), (False, "")])
def test_sigterm_is_a_notice_once_to_a_busy_process_and_the_end_otherwise(busy, said):
    done = subprocess.run([sys.executable, "-c", CODE.format(busy=busy)], capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 128 + signal.SIGTERM
    assert done.stdout.endswith(said) and "not reached" not in done.stdout
