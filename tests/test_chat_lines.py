"""What is typed, and the file that keeps it."""

from __future__ import annotations

import io
import json
import stat

from raylm import chat_lines
from raylm.chat_lines import MOST_LINES, Lines


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_a_pipe_is_read_line_by_line():
    text = 'one\\\n"""two\n\nthree\n/quit\nfour\n'
    assert list(Lines(io.StringIO(text), str)) == ["one\\", '"""two', "three"]


def test_somebody_at_a_terminal_may_ask_in_several_lines():
    text = 'one\\\ntwo\n"""three\n\n  four\n"""\n""" five """\nsix\\\n'
    assert list(Lines(Terminal(text), str)) == ["one\ntwo", "three\n\n  four", "five", "six"]


def test_a_history_keeps_the_last_lines_for_its_owner_alone(tmp_path):
    file = tmp_path / "raylm" / "chat_history"
    file.parent.mkdir()
    file.write_text("")
    file.chmod(0o644)
    for at in range(2 * MOST_LINES + 1):
        chat_lines._append(file, f"line {at}\nof two")
        if at == 0:
            assert stat.S_IMODE(file.stat().st_mode) == 0o600
    with file.open("a") as broken:
        broken.write("half a line of js\n")
    kept = chat_lines._read(file)
    assert kept[-1] == f"line {2 * MOST_LINES}\nof two" and len(kept) == MOST_LINES - 1
    assert [json.loads(line) for line in file.read_text().splitlines()] == kept
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert [path.name for path in file.parent.iterdir()] == ["chat_history"]


def test_a_history_is_not_written_through_a_link(tmp_path):
    (tmp_path / "theirs").write_text("x")
    (tmp_path / "chat_history").symlink_to(tmp_path / "theirs")
    said: list[str] = []
    lines = Lines(Terminal("one\n"), said.append)
    lines._history = tmp_path / "chat_history"
    assert list(lines) == ["one"]
    assert "cannot be written" in said[0]
    assert (tmp_path / "theirs").read_text() == "x"
