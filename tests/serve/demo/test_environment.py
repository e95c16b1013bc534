"""The environments of the pages: locked lists, made once."""

from __future__ import annotations

import re
import sys
from pathlib import Path

import pytest

from raylm.core.errors import ConfigError
from raylm.serve.demo import environment


@pytest.mark.parametrize("page", environment.PAGES)
def test_a_lock_pins_everything_without_addresses(page):
    lines = environment.lock_of(page).read_text().splitlines()
    assert all(re.fullmatch(r"[a-z0-9.-]+(\[[a-z,]+\])?==[0-9][\w.+!]*( ; .+)?", line) for line in lines)
    assert {"openai", page} <= {line.partition("==")[0] for line in lines}


def test_a_list_that_cannot_be_installed_is_said_and_leaves_nothing_ready(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    monkeypatch.delenv(environment.OWN_PYTHON, raising=False)
    lock = tmp_path / "lock.txt"
    lock.write_text("raylm-has-no-such-package==0.0.1\n")
    monkeypatch.setattr(environment, "lock_of", lambda page: lock)
    # without an index: what is asked is what is said when a machine has none
    monkeypatch.setenv("UV_OFFLINE", "1")
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    said: list[str] = []
    with pytest.raises(ConfigError, match="could not be installed") as refused:
        environment.make("gradio", said.append)
    assert environment.OWN_PYTHON in str(refused.value)
    assert environment.ready("gradio") is None
    assert said == [f"installing gradio and what it needs into {environment.folder_of('gradio')}, once"]


def test_a_python_of_ones_own_is_used_as_it_is(monkeypatch):
    monkeypatch.setenv(environment.OWN_PYTHON, sys.executable)
    assert environment.make("gradio") == Path(sys.executable)


def test_another_list_is_another_folder(tmp_path, monkeypatch):
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    first = environment.folder_of("gradio")
    lock = tmp_path / "lock.txt"
    lock.write_text("x==1\n")
    monkeypatch.setattr(environment, "lock_of", lambda page: lock)
    assert environment.folder_of("gradio") != first
    assert first.parent == tmp_path / "raylm"
