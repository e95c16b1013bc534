"""The `mlflow` sink: its folder of files, and its REST calls to a real HTTP server."""

from __future__ import annotations

import json
import re
import threading
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raylm.core.errors import ConfigError
from raylm.trainer.watch.sinks.mlflow import Mlflow
from tests.trainer.watch.rows import falling, run


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


def test_a_resumed_stage_goes_on_in_its_run(tmp_path):
    for step in range(2):
        writer = Mlflow().open(run(tmp_path))
        writer.write(step, {"loss": 1.0})
        if step == 0:
            (meta,) = (tmp_path / "mlruns").glob("*/*/meta.yaml")
            meta.write_text(re.sub("start_time: .*", "start_time: 7", meta.read_text()))
    (at,) = (tmp_path / "mlruns").glob("*/*/meta.yaml")
    assert [line.split()[2] for line in (at.parent / "metrics" / "loss").read_text().splitlines()] == ["0", "1"]
    assert "start_time: 7\n" in at.read_text() and "status: 1\n" in at.read_text()


def test_experiments_and_runs_are_told_apart(tmp_path):
    for experiment in ("a", "k", "ab", ""):
        for name in ("job/base", "job/tuned"):
            Mlflow(experiment=experiment).open(run(tmp_path)._replace(name=name))
    found = list((tmp_path / "mlruns").glob("*/*/meta.yaml"))
    assert len({at.parent.parent.name for at in found}) == 4 and len({at.parent.name for at in found}) == 8
    assert all(at.parent.parent.name.isdecimal() for at in found)


@pytest.fixture
def server():
    asked, held = [], []

    class Handler(BaseHTTPRequestHandler):
        def do_GET(self):
            asked.append((self.path.split("/mlflow/")[1], None, self.headers.get("Authorization")))
            self.send_error(404)

        def do_POST(self):
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            asked.append((self.path.split("/mlflow/")[1], body, self.headers.get("Authorization")))
            if self.path.endswith("runs/search"):
                (tag,) = re.findall("^tags.`raylm.run` = '([0-9a-f]+)'$", body["filter"])
                runs = [made for made in held if {"key": "raylm.run", "value": tag} in made["tags"]]
                answer = {"runs": [{"info": {"run_id": f"r{held.index(made) + 1}"}} for made in runs]} if runs else {}
            else:
                held.extend([body] if self.path.endswith("runs/create") else [])
                answer = {"experiment_id": "7", "run": {"info": {"run_id": f"r{len(held)}"}}}
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
        "experiments/get-by-name?experiment_name=raylm",
        "experiments/create",
        "runs/search",
        "runs/create",
        "runs/log-batch",
        "runs/log-batch",
        "runs/update",
    ]
    metric = asked[5][1]["metrics"][0]
    assert (asked[5][1]["run_id"], metric["key"], metric["value"], metric["step"]) == ("r1", "loss", 2.5, 3)
    assert {token for *_, token in asked} == {"Bearer secret"}
    assert asked[-1][1]["status"] == "FINISHED"


def test_a_server_is_asked_for_the_run_of_a_resumed_stage(server, tmp_path):
    uri, asked = server
    for name in ("job/base", "job/tuned", "job/base"):
        Mlflow(uri=uri).open(run(tmp_path)._replace(name=name)).write(0, {"loss": 1.0})
    assert [body["run_id"] for what, body, _ in asked if what == "runs/log-batch" and "metrics" in body] == ["r1", "r2", "r1"]
    assert [body for what, body, _ in asked if what == "runs/update"] == [{"run_id": "r1", "status": "RUNNING"}]


def test_an_experiment_is_asked_for_by_its_whole_name(server, tmp_path):
    uri, asked = server
    Mlflow(uri=uri, experiment="web & code #2/ü").open(run(tmp_path))
    assert asked[0][0] == "experiments/get-by-name?experiment_name=web%20%26%20code%20%232%2F%C3%BC"


def test_a_server_that_is_not_there_is_said_before_training(tmp_path):
    with pytest.raises(ConfigError, match="does not take"):
        Mlflow(uri="http://127.0.0.1:9").open(run(tmp_path))
