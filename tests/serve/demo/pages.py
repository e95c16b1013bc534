"""A page as `raylm demo` starts it, and a browser to look at it; skipped, with the reason, where one of them is not there."""

from __future__ import annotations

import contextlib
import os
import socket
import subprocess
import sys
from collections.abc import Iterator

import pytest

from raylm.serve.demo import environment
from tests.browser import CHROMIUM


def needs(page: str) -> list[pytest.MarkDecorator]:
    """Marks of a test of `page` in a browser."""
    absent = environment.ready(page) is None
    make = f"`python -m raylm.serve.demo.environment {page}` installs it"
    return [
        pytest.mark.skipif(CHROMIUM is None, reason="no Chromium on this machine"),
        pytest.mark.skipif(absent, reason=f"the packages of the {page} page are not there; {make}"),
    ]


def free_port() -> int:
    with socket.socket() as asked:
        asked.bind(("127.0.0.1", 0))
        return asked.getsockname()[1]


@contextlib.contextmanager
def started(url: str, *options: str, key: str, **variables: str) -> Iterator[str]:
    """URL of the page of an endpoint; at the end the page has ended too, by Ctrl-C, and has called nobody but the endpoint."""
    port, outside = free_port(), socket.create_server(("127.0.0.1", 0))
    outside.setblocking(False)
    way_out = f"http://127.0.0.1:{outside.getsockname()[1]}"
    proxies = dict.fromkeys(("HTTP_PROXY", "HTTPS_PROXY", "ALL_PROXY", "http_proxy", "https_proxy", "all_proxy"), way_out)
    proxies |= {"NO_PROXY": "127.0.0.1", "no_proxy": "127.0.0.1"}
    command = [sys.executable, "-m", "raylm", "demo", url, "--port", str(port), *options]
    env = {**os.environ, **proxies, "RAYLM_API_KEY": key, **variables}
    process = subprocess.Popen(command, env=env, stdout=subprocess.PIPE, text=True)
    try:
        assert process.stdout is not None
        said = process.stdout.readline()
        assert f"http://127.0.0.1:{port}" in said, said
        yield f"http://127.0.0.1:{port}"
    finally:
        process.send_signal(2)
        assert process.wait(timeout=30) == 0
        with pytest.raises(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            pass
        with outside, pytest.raises(BlockingIOError):
            outside.accept()
