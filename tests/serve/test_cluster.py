"""Stages that must not start: they say why and start nothing."""

from __future__ import annotations

import socket
import subprocess
import sys
from typing import Any

import pytest

from raylm.core.artifact import Report
from raylm.core.context import Context
from raylm.core.errors import PlacementError, StageError
from raylm.core.storage import Folder
from raylm.core.workers import Workers, _unsaid
from raylm.serve import cluster, stage
from raylm.serve.config import Serve
from raylm.serve.control import ControlSettings
from raylm.serve.gateway import nodes
from raylm.serve.gateway.settings import GatewaySettings, Holder, ModelFacts
from tests.serve.endpoints import free_port


def context(name, root, workers, **stages):
    return Context(
        stage=name,
        out=root / name,
        stages=stages,
        workers=workers,
        config={},
        identity={},
        inputs=[],
        fingerprint="0123456789abcdef",
    )


def test_a_taken_port_is_said_before_anything_starts(tmp_path):
    workers = Workers()
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        port = taken.getsockname()[1]
        with pytest.raises(PlacementError, match=rf"port {port} cannot be used.*\n.*--set stages\.demo\.port={port + 1}"):
            stage.run(Serve(model="sft", port=port), context("demo", Folder(tmp_path), workers))
    assert not workers._started


def test_a_gate_that_did_not_pass_refuses(tmp_path):
    root = Folder(tmp_path)
    report = context("report", root, Workers()).commit(Report, facts={"passed": False})
    with pytest.raises(StageError, match="gate did not pass"):
        stage.run(Serve(model="sft", requires="report"), context("demo", root, Workers(), report=report.folder))


def test_a_key_from_the_environment_is_written_nowhere(tmp_path, monkeypatch):
    monkeypatch.setenv(stage.KEY_VARIABLE, "from-outside")
    key = stage._key(Serve(model="sft"), Folder(tmp_path))
    assert key == ("from-outside", None)
    assert not list(tmp_path.iterdir())


def test_what_starts_with_ray_does_not_inherit_the_key(monkeypatch):
    monkeypatch.setenv(stage.KEY_VARIABLE, "from-outside")
    asked = [sys.executable, "-c", f"import os; print(os.environ.get({stage.KEY_VARIABLE!r}))"]
    with _unsaid(stage.KEY_VARIABLE):
        assert subprocess.check_output(asked, text=True).strip() == "None"
    assert subprocess.check_output(asked, text=True).strip() == "from-outside"


def test_a_key_file_is_made_with_its_mode_and_made_anew(tmp_path, monkeypatch):
    monkeypatch.delenv(stage.KEY_VARIABLE, raising=False)
    first = stage._key(Serve(model="sft"), Folder(tmp_path))
    second = stage._key(Serve(model="sft"), Folder(tmp_path))
    assert first.value != second.value
    assert (tmp_path / "key").read_text().strip() == second.value
    assert (tmp_path / "key").stat().st_mode & 0o777 == 0o600
    assert stage._key(Serve(model="sft", insecure=True), Folder(tmp_path)) == (None, None)


def test_the_url_is_one_that_this_machine_can_ask():
    assert cluster.url(Serve(model="sft", host="0.0.0.0", port=81)) == "http://127.0.0.1:81/v1"
    assert cluster.url(Serve(model="sft")) == "http://127.0.0.1:8000/v1"


@pytest.mark.ray
def test_an_endpoint_of_another_job_is_left_alone_and_one_on_its_port_is_refused(workers):
    import ray

    workers.ensure()
    ports = (free_port(), free_port())
    configs = [Serve(model="sft", port=port) for port in ports]
    assert len({cluster.application_name(cfg) for cfg in configs}) == 2
    first = Holder("s3://bucket/one/api", "another-run", "ann@here", "2026-11-30")
    settings = [
        GatewaySettings("127.0.0.1", port, (ModelFacts("raylm", "model"),), application=f"raylm-{port}", holder=first)
        for port in ports
    ]
    gateways = [nodes.start(each, nodes.here(), new=True) for each in settings]
    try:
        ray.get([gateway.listening.remote() for gateway in gateways], timeout=nodes.START_S)
        # another job that names the port hears whose it is, before anything of its own is deployed
        whose, second = "s3://bucket/one/api, served by ann@here since 2026-11-30", cluster.holder(workers, "s3://bucket/two/api")
        theirs = settings[0]._replace(holder=second)
        parts = cluster.Parts((), ControlSettings({}), theirs)
        for refused in (
            lambda: cluster.check_port(configs[0], workers, "demo", second.uri),
            lambda: cluster.deploy(configs[0], workers, parts, "demo"),
            # both looked before either began
            lambda: nodes.start(theirs, nodes.here(), new=True),
        ):
            with pytest.raises(PlacementError, match=f"port {ports[0]}: {whose}"):
                refused()
        nodes.end(0.0, ports[0], second)
        assert not workers.holds(cluster.HELD) and nodes.holders(ports[0]) == dict.fromkeys(nodes.names(ports[0]), first)
        # a rerun of the same endpoint, and a later stage of the same run, take its place
        cluster.check_port(configs[0], workers, "demo", first.uri)
        assert first.is_one_with(second._replace(run="another-run")) and not Holder().is_one_with(Holder())
        again = nodes.start(settings[0]._replace(holder=second._replace(uri=first.uri)), nodes.here(), new=True)
        told: Any = ray.get(again.holder.remote(), timeout=nodes.START_S)
        assert told.by == second.by
        nodes.end(0.0, ports[0])
        assert (nodes.names(ports[0]), len(nodes.names(ports[1]))) == ([], 1)
        socket.create_connection(("127.0.0.1", ports[1]), timeout=5).close()
    finally:
        for port in ports:
            nodes.end(0.0, port)
