"""Machines of a cluster that go and come, as somebody who follows a job there reads of them."""

from __future__ import annotations

import http.server
import json
import threading

import pytest

from raylm.cluster.watch import Machine, MachineWatch, machines_at


def machine(name: str, alive: bool = True, why: str = "") -> Machine:
    return Machine(name, f"10.0.0.{name[1]}", alive, why)


def test_what_went_and_what_came_is_said_once():
    lines: list[str] = []
    seen = iter(
        [
            [machine("a1"), machine("b2")],
            None,
            [machine("a1"), machine("b2", alive=False, why="health check failed\nmore")],
            [machine("a1"), machine("b2", alive=False, why="health check failed\nmore")],
            # it comes back at its old address as another node of Ray's
            [machine("a1"), machine("b2", alive=False), machine("c2")],
        ]
    )
    watch = MachineWatch(lambda: next(seen), lines.append)
    for _ in range(5):
        watch.look()
    assert lines == [
        "machine 10.0.0.2 is lost (health check failed): 1 of 2 are left",
        "machine 10.0.0.2 has joined: 2 now",
    ]


def test_a_cluster_that_cannot_be_asked_is_no_lost_machine():
    lines: list[str] = []
    seen = iter([None, [machine("a1")], None, [machine("a1")]])
    watch = MachineWatch(lambda: next(seen), lines.append)
    for _ in range(4):
        watch.look()
    assert lines == []


GOOD = json.dumps({"data": {"result": {"result": [{"node_id": "n", "node_ip": "10.0.0.1", "state": "ALIVE"}]}}}).encode()


@pytest.mark.parametrize(
    ("body", "length", "found"),
    [
        (GOOD, len(GOOD), [Machine("n", "10.0.0.1", True, "")]),
        # a dashboard that dies in the middle of its answer, and one of another version
        (GOOD, len(GOOD) + 9, None),
        (b"[]", 2, None),
        (b'{"data": {"result": {"result": [{}]}}}', 38, None),
    ],
)
def test_an_answer_that_is_none_ends_no_watch(body, length, found):
    class Dashboard(http.server.BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(200)
            self.send_header("content-length", str(length))
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_):
            pass

    with http.server.HTTPServer(("127.0.0.1", 0), Dashboard) as server:
        threading.Thread(target=server.handle_request, daemon=True).start()
        assert machines_at(f"http://127.0.0.1:{server.server_address[1]}", None) == found
