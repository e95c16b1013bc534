"""Takes rows, proves MLflow's folder of files and what its REST interface is sent, by a real HTTP server."""

from __future__ import annotations

import json
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raylm.core.errors import ConfigError
from raylm.train.watch.sinks.mlflow import Mlflow
from tests.train.watch.rows import falling, run


def test_the_folder_is_a_file_store(tmp_path):
    writer = Mlflow().open(run(tmp_path))
    for row in falling(3):
        writer.write(row["step"], {"loss": row["loss"], "loss/web": 1.0})
    writer.close()
    (at,) = (tmp_path / "mlruns").glob("*/*/meta.yaml")
    lines = [line.split() for line in (at.parent / "metrics" / "loss").read_text().splitlines()]
    assert [(float(value), int(step)) for _, value, step in lines] == [(row["loss"], row["step"]) for row in falling(3)]
    assert "status: 3" in at.read_text() and "run_name: job/base" in at.read_text()
    assert (at.parent / "metrics" / "loss.web").exists() and (at.parent / "params" / "steps").read_text() == "60"


@pytest.fixture
def server():
    asked = []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_error(404)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path.split("/mlflow/")[1], body, self.headers.get("Authorization")))
            answer = {"experiment_id": "7", "run": {"info": {"run_id": "r1"}}}
            self.send_response(200)
            self.end_headers()
            self.wfile.write(json.dumps(answer).encode())

        def log_message(self, *said):
            pass

    made = HTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=made.serve_forever, daemon=True).start()
    yield f"http://127.0.0.1:{made.server_port}", asked
    made.shutdown()


def test_a_server_is_told_by_rest(server, monkeypatch, tmp_path):
    uri, asked = server
    monkeypatch.setenv("MLFLOW_TRACKING_TOKEN", "secret")
    writer = Mlflow(uri=uri).open(run(tmp_path))
    writer.write(3, {"loss": 2.5})
    writer.close()
    assert [what for what, *_ in asked] == [
        "experiments/create",
        "runs/create",
        "runs/log-batch",
        "runs/log-batch",
        "runs/update",
    ]
    metric = asked[3][1]["metrics"][0]
    assert (asked[3][1]["run_id"], metric["key"], metric["value"], metric["step"]) == ("r1", "loss", 2.5, 3)
    assert {token for *_, token in asked} == {"Bearer secret"}
    assert asked[-1][1]["status"] == "FINISHED"


def test_a_server_that_is_not_there_is_said_before_training(tmp_path):
    with pytest.raises(ConfigError, match="does not take"):
        Mlflow(uri="http://127.0.0.1:9").open(run(tmp_path))
