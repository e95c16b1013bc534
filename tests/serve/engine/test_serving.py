"""An endpoint that is alive is left alone: its key, its manifest, whatever port the second run asks for."""

from __future__ import annotations

import os
import subprocess
import sys
from typing import Any

import pytest

from raylm import job
from raylm.core.artifact import MANIFEST, Endpoint
from raylm.core.context import Context
from raylm.core.errors import PlanError
from raylm.core.storage import Folder
from raylm.core.workers import Workers
from raylm.serve.engine import serving
from tests.model.tiny import tiny_checkpoint

SERVING = """
import sys
from raylm.core.storage import Folder
from raylm.serve.engine import serving
serving.take(Folder(sys.argv[1]))
print("serving", flush=True)
sys.stdin.read()
"""


def test_a_second_run_names_the_process_and_touches_nothing(tmp_path):
    tiny_checkpoint(tmp_path / "model")
    (tmp_path / "demo.toml").write_text(
        f'name = "demo"\nroot = "{tmp_path}/runs"\n[stages.api]\nstage = "serve"\nmodel = "{tmp_path}/model"\n'
    )
    loaded = job.load(tmp_path / "demo.toml")
    out = loaded.folder("api").make()
    out.write("key", "the-key")
    ours: Any = {"stages": {}, "workers": Workers(), "config": {}, "identity": {}, "inputs": [], "fingerprint": ""}
    Context(stage="api", out=out, **ours).commit(Endpoint, facts={})
    with subprocess.Popen(
        [sys.executable, "-c", SERVING, out.uri], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout
        assert other.stdout.readline() == "serving\n"
        for rebuild in (None, ["api"]):
            with pytest.raises(PlanError, match=rf"being served by pid {other.pid}"):
                job.run(loaded, rebuild=rebuild)
        assert sorted(out.files()) == ["key", MANIFEST]
        # the lock goes with its process, however that ends
        other.kill()
    serving.check(out)


def test_a_process_that_stops_serving_lets_go(tmp_path):
    out = Folder(tmp_path / "api")
    serving.take(out)
    with pytest.raises(PlanError, match=rf"pid {os.getpid()}"):
        serving.check(out)
    serving.leave(out)
    serving.check(out)
