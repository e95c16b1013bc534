"""Tools of real MCP servers: a program for each conversation, and one that runs already, over HTTP."""

from __future__ import annotations

import asyncio
import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raylm.core.errors import ConfigError, RaylmError
from raylm.rl.environments.mcp import Mcp
from tests.rl.talk import coder_of, conversations, prompt, talk

PROGRAM, SERVER = (str(Path(__file__).with_name(name)) for name in ("mcp_program.py", "mcp_server.py"))
ROOM = {"max_tokens": 2000, "max_len": 6000, "timeout_s": 30.0}


def call(name, **arguments):
    return f"<tool_call>\n{json.dumps({'name': name, 'arguments': arguments})}\n</tool_call>"


def answers(ended):
    return [message["content"] for message in json.loads(ended.trajectory.messages) if message["role"] == "tool"]


def is_alive(pid):
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.skipif(sys.platform != "linux", reason="processes are found in /proc")
def test_each_conversation_has_a_server_of_its_own(tmp_path, monkeypatch):
    monkeypatch.setenv("SHOP_KEY", "sesame")
    coder, note = coder_of(), tmp_path / "pid"
    made = conversations(Mcp(command=[sys.executable, PROGRAM], env=["SHOP_KEY"]), coder, **ROOM)
    said = {
        "calm": [call("visits"), call("visits"), call("add", a=3, b=4), call("fail", why="so"), call("fly"), "7"],
        "other": [call("visits"), "1"],
    }
    ended = talk(made, coder, {name: prompt() for name in said}, lambda _, request: said[request.key][request.turn])
    first, second, added, failed, unknown = answers(ended["calm"])
    # no conversation sees what another one has done, one server what it did before
    assert (first, second, added) == ("1 sesame", "2 sesame", "7") and answers(ended["other"]) == ["1 sesame"]
    assert failed == "error: so" and unknown.startswith("error: there is no tool 'fly'; there are: add, visits, fail, hang")
    assert ended["calm"].trajectory.metrics == {"tool_calls": 5.0, "tool_errors": 2.0}
    # a server that hangs ends with its conversation
    made._timeout_s = 2.0
    found = talk(made, coder, {0: prompt()}, lambda *_: call("hang", note=str(note)))[0]
    assert found.unscored is not None and found.unscored.kind == "timed_out"
    until = time.monotonic() + 5
    while is_alive(int(note.read_text())) and time.monotonic() < until:
        time.sleep(0.05)
    assert not is_alive(int(note.read_text()))
    made.close()


def test_a_server_over_http_is_shared(monkeypatch):
    monkeypatch.setenv("SHOP_TOKEN", "sesame")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen([sys.executable, SERVER, str(port)], stderr=subprocess.DEVNULL)
    try:
        until = time.monotonic() + 60
        while time.monotonic() < until:
            with socket.socket() as probe:
                if probe.connect_ex(("127.0.0.1", port)) == 0:
                    break
            time.sleep(0.05)
        coder = coder_of()
        card = Mcp(url=f"http://127.0.0.1:{port}/mcp", token_env="SHOP_TOKEN", only=["token", "visits"], shared=True)
        made = conversations(card, coder, most=1, **ROOM)
        assert {tool["function"]["name"] for tool in made._processes.tools()} == {"token", "visits"}
        said = [call("token"), call("visits"), call("add", a=1, b=1), "done"]
        ended = talk(made, coder, {name: prompt() for name in range(2)}, lambda _, request: said[request.turn])
        made.close()
    finally:
        server.kill()
        server.wait()
    found = [answers(ended[name]) for name in range(2)]
    assert [each[:2] for each in found] == [["Bearer sesame", "1"], ["Bearer sesame", "2"]]
    assert found[0][2] == "error: there is no tool 'add'; there are: visits, token"


@pytest.mark.parametrize(
    ("table", "why"),
    [
        ({"command": [sys.executable, "-S", "-c", "raise SystemExit('no licence')"]}, "did not start: no licence"),
        ({"command": ["no-such-program"]}, "did not start: .*no-such-program"),
        ({"command": ["x"], "env": ["NOT_SET_ANYWHERE"]}, "NOT_SET_ANYWHERE is not set"),
    ],
)
def test_a_server_that_is_not_there_is_said_in_words(table, why):
    assert "NOT_SET_ANYWHERE" not in os.environ
    card = Mcp(**table)
    with pytest.raises(RaylmError, match=why):
        card.preload()
        asyncio.run(card.tools())


def test_a_server_is_a_command_or_a_url():
    for table in ({}, {"command": ["x"], "url": "http://x"}, {"command": ["x"], "token_env": "T"}):
        with pytest.raises((ConfigError, ValueError)):
            Mcp(**table)
