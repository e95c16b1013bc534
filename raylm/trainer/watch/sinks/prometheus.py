"""The `prometheus` sink: metrics as gauges on Ray's metrics port."""

from __future__ import annotations

import re
from typing import Any, Literal

from raylm.trainer.watch.sinks.sink import Run, Sink, Writer

PREFIX = "raylm_train_"


class Prometheus(Sink):
    """Gauges `ray_raylm_train_loss{run="job/stage"}` and so on, beside Ray's own; cluster/grafana shows them."""

    kind: Literal["prometheus"] = "prometheus"

    def open(self, run: Run) -> Writer:
        return _Gauges(run.name)


class _Gauges:
    def __init__(self, run: str) -> None:
        self._run = run
        self._gauges: dict[str, Any] = {}

    def write(self, step: int, values: dict[str, float]) -> None:
        from ray.util.metrics import Gauge

        for name, value in {"step": float(step), **values}.items():
            if name not in self._gauges:
                self._gauges[name] = Gauge(gauge_name(name), description=f"{name} of a training run", tag_keys=("run",))
            self._gauges[name].set(value, {"run": self._run})

    def close(self) -> None:
        self._gauges.clear()


def gauge_name(metric: str) -> str:
    """`loss/web` -> `raylm_train_loss_web`."""
    return PREFIX + re.sub(r"[^a-zA-Z0-9_]", "_", metric)
