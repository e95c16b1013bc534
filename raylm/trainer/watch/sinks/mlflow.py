"""The `mlflow` sink: an MLflow run, on a tracking server or as a folder of files.

Neither needs MLflow's package, which sends usage data by default and brings nine more, or the whole server. Sources:
https://mlflow.org/docs/latest/rest-api.html, https://mlflow.org/docs/latest/tracking/backend-stores.html
"""

from __future__ import annotations

import hashlib
import json
import os
import re
import time
import urllib.parse
import urllib.request
from pathlib import Path
from typing import Any, ClassVar, Literal

from raylm.core.errors import ConfigError
from raylm.trainer.watch.sinks.sink import Run, Sink, Writer

WAIT_S = 10.0
# by it a resumed stage finds its run
TAG = "raylm.run"


class Mlflow(Sink):
    """MLflow tracking; a token comes from MLFLOW_TRACKING_TOKEN."""

    goes_on_in: ClassVar[str] = "mlruns"

    kind: Literal["mlflow"] = "mlflow"
    uri: str = ""
    """`http://host:port` of a server; a folder; or, empty, the artifact's `mlruns/`."""
    experiment: str = "raylm"
    """Experiment of the run."""

    def open(self, run: Run) -> Writer:
        if self.uri.startswith(("http://", "https://")):
            return _Server(self.uri.rstrip("/"), self.experiment, run)
        return _Files(Path(self.uri or f"{run.folder}/mlruns"), self.experiment, run)


class _Server:
    """REST: an experiment by name, a run in it by tag, batches of metrics. The same stage goes on in the same run."""

    def __init__(self, uri: str, experiment: str, run: Run) -> None:
        self._uri = uri
        named = urllib.parse.quote(experiment, safe="")
        found = self._ask("GET", f"experiments/get-by-name?experiment_name={named}", missing_ok=True)
        at = (
            found["experiment"]["experiment_id"]
            if found
            else self._ask("POST", "experiments/create", name=experiment)["experiment_id"]
        )
        # the tag is hex: no name has to be quoted in a filter
        tag = _run_id(experiment, run.name)
        held = self._ask("POST", "runs/search", experiment_ids=[at], filter=f"tags.`{TAG}` = '{tag}'", max_results=1).get("runs")
        if held:
            self._run = held[0]["info"]["run_id"]
            # its params stay: a server refuses one that has changed
            self._ask("POST", "runs/update", run_id=self._run, status="RUNNING")
            return
        tags = [{"key": TAG, "value": tag}]
        made = self._ask("POST", "runs/create", experiment_id=at, start_time=_now(), run_name=run.name, tags=tags)
        self._run = made["run"]["info"]["run_id"]
        self._ask("POST", "runs/log-batch", run_id=self._run, params=_params(run.config))

    def write(self, step: int, values: dict[str, float]) -> None:
        metrics = [{"key": _key(name), "value": value, "timestamp": _now(), "step": step} for name, value in values.items()]
        self._ask("POST", "runs/log-batch", run_id=self._run, metrics=metrics)

    def close(self) -> None:
        self._ask("POST", "runs/update", run_id=self._run, status="FINISHED", end_time=_now())

    def _ask(self, method: str, what: str, missing_ok: bool = False, **body: Any) -> Any:
        headers = {"Content-Type": "application/json"}
        if token := os.environ.get("MLFLOW_TRACKING_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        data = json.dumps(body).encode() if method == "POST" else None
        request = urllib.request.Request(f"{self._uri}/api/2.0/mlflow/{what}", data, headers, method=method)
        try:
            with urllib.request.urlopen(request, timeout=WAIT_S) as answer:
                return json.loads(answer.read() or b"{}")
        except OSError as cause:
            if missing_ok and getattr(cause, "code", 0) == 404:
                return None
            raise ConfigError(f"MLflow at {self._uri} does not take {what}: {cause}", next="check sinks.uri") from cause


class _Files:
    """The file store: a folder by experiment and run; each metric is a file of `time value step` lines.

    The same stage goes on in the same run.
    """

    def __init__(self, root: Path, experiment: str, run: Run) -> None:
        # MLflow's own numbers have up to 18 digits
        number = str(int(hashlib.sha1(experiment.encode()).hexdigest(), 16) % 10**18)
        name = _run_id(experiment, run.name)
        self._at = root / number / name
        for part in ("metrics", "params", "tags", "artifacts"):
            (self._at / part).mkdir(parents=True, exist_ok=True)
        place = (root / number).resolve().as_uri()
        began = _held(root / number / "meta.yaml", "creation_time")
        _yaml(root / number / "meta.yaml", {
            "artifact_location": place, "creation_time": began, "experiment_id": f"'{number}'", "last_update_time": _now(),
            "lifecycle_stage": "active", "name": experiment,
        })  # fmt: skip
        began = _held(self._at / "meta.yaml", "start_time")
        self._info = {
            "artifact_uri": f"{place}/{name}/artifacts", "end_time": "null", "entry_point_name": "''",
            "experiment_id": f"'{number}'", "lifecycle_stage": "active", "run_id": name, "run_name": run.name, "run_uuid": name,
            "source_name": "''", "source_type": 4, "source_version": "''", "start_time": began, "status": 1, "tags": "[]",
            "user_id": "raylm",
        }  # fmt: skip
        _yaml(self._at / "meta.yaml", self._info)
        (self._at / "tags" / "mlflow.runName").write_text(run.name)
        for param in _params(run.config):
            (self._at / "params" / param["key"]).write_text(param["value"])

    def write(self, step: int, values: dict[str, float]) -> None:
        for name, value in values.items():
            with open(self._at / "metrics" / _key(name), "a", encoding="utf-8") as file:
                file.write(f"{_now()} {value} {step}\n")

    def close(self) -> None:
        # 3 is FINISHED
        _yaml(self._at / "meta.yaml", {**self._info, "status": 3, "end_time": _now()})


def _run_id(experiment: str, name: str) -> str:
    """32 hex digits, as MLflow's own; the same for every attempt of a stage. In one store no two experiments share a run."""
    return hashlib.sha1(f"{experiment}\n{name}".encode()).hexdigest()[:32]


def _key(name: str) -> str:
    """`loss/web` as `loss.web`: in a folder of files `loss` cannot be a file and a folder."""
    return re.sub(r"[^\w. -]", ".", name)


def _now() -> int:
    return int(time.time() * 1000)


def _params(config: dict[str, Any]) -> list[dict[str, str]]:
    return [{"key": name, "value": str(value)[:500]} for name, value in config.items() if value is not None]


def _held(path: Path, key: str) -> int:
    """The time that an attempt before wrote as `key`; now, when there was none."""
    found = re.search(rf"^{key}: (\d+)$", path.read_text(), re.MULTILINE) if path.exists() else None
    return int(found[1]) if found else _now()


def _yaml(path: Path, values: dict[str, Any]) -> None:
    path.write_text("".join(f"{name}: {value}\n" for name, value in values.items()))
