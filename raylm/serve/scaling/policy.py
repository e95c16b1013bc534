"""A scaling card behind Ray Serve's own interface: Serve's controller calls it with an AutoscalingContext, and starts and ends
replicas by what it says. Replicas tell their load through `record_autoscaling_stats`.
"""

from __future__ import annotations

import time
import warnings
from typing import Any

from pydantic import TypeAdapter

from raylm.core.config import resolve
from raylm.serve.directory import Load
from raylm.serve.scaling import AnyScaling
from raylm.serve.scaling.decide import Bounds, State, decide
from raylm.serve.scaling.log import ScalingLog, entry, last_of
from raylm.serve.scaling.observed import Flow, Observed

PERIOD_S = 0.5
"""Seconds between two decisions; Serve asks each 0.1 s."""
REPORT_S = 0.5
"""Seconds between two reports of a replica."""
STALE_S = 5.0
"""Seconds without a new report after which a replica's load is not known."""
COUNTS = ("running", "waiting", "queued_tokens", "read_tokens", "read_prompts")
FIGURES = ("replicas", "needed", "running", "ongoing", "held", "queued_tokens", "arriving_s", "ttft_s", "kv_use", "capacity")


class ScalingPolicy:
    """What `AutoscalingPolicy(policy_function=...)` names; its arguments are JSON.

    Args:
        model: its name.
        card: fields of a scaling card.
        bounds: of `Bounds`, by name.
        folder: where decisions are kept; "" for nowhere.
    """

    def __init__(self, model: str, card: dict[str, Any], bounds: dict[str, Any], folder: str = "") -> None:
        adapter: TypeAdapter[Any] = TypeAdapter(AnyScaling)
        last = last_of(folder, model)

        def known(name: str) -> float | None:
            return float(last[name]) if last.get(name) else None

        self._model, self._card, self._bounds = model, resolve(adapter.validate_python(card)), Bounds(**bounds)
        # what a replica can do, and how long a start takes, was known to the one before
        self._state, self._log = State(Flow(capacity=known("capacity")), cold_start_s=known("cold_start_s")), ScalingLog(folder)
        self._asked_s, self._replicas = float("-inf"), 0
        self._target: int | None = None
        self._reports: dict[str, tuple[float, float]] = {}
        self._gauges = _gauges()

    def __call__(self, context: Any) -> tuple[int, dict[str, Any]]:
        """Replicas from now on. Serve keeps the bounds; delays are in here, so Serve's own are zero."""
        now = time.monotonic()
        # Serve changes the target by itself when somebody asks for the first replica
        if now - self._asked_s < PERIOD_S and context.target_num_replicas == self._target:
            return self._replicas, {}
        observed = self._observe(context, now)
        decision = decide(observed, self._state, self._card, self._bounds)
        self._state, self._asked_s, self._replicas = decision.state, now, decision.replicas
        self._target = observed.target
        line = entry(self._model, observed, decision)
        self._log.write(line, now)
        for name, gauge in self._gauges.items():
            if line[name] is not None:
                gauge.set(float(line[name]), tags={"model": self._model})
        return decision.replicas, {}

    def _observe(self, context: Any, now: float) -> Observed:
        loads, held = {}, 0
        raw = context.raw_metrics or {}
        for replica in context.running_replicas:
            series = {name: points[replica][-1] for name, points in raw.items() if points.get(replica)}
            newest = max((point.timestamp for point in series.values()), default=0.0)
            key = str(replica)
            # by this machine's clock: that of the replica's may differ
            told, heard = self._reports.get(key, (0.0, now))
            self._reports[key] = (newest, now if newest != told else heard)
            # what it left out of its last report it does not know any more
            values = {name: point.value for name, point in series.items() if point.timestamp == newest}
            held = max(held, int(values.get("held", 0)))
            known = values and now - self._reports[key][1] < STALE_S
            loads[key] = load_of(values) if known else None
        self._reports = {key: seen for key, seen in self._reports.items() if key in loads}
        at_door = 0.0 if loads else float(context.total_num_requests)
        return Observed(now, context.target_num_replicas, loads, held, at_door)


def load_of(values: dict[str, float]) -> Load | None:
    """A load from what `record_autoscaling_stats` said; None where nothing of it is one."""
    known = {name: values[name] for name in Load._fields if name in values}
    whole = {name: int(value) for name, value in known.items() if name in COUNTS}
    return Load(**{**known, **whole}) if known else None


def autoscaling(model: str, card: Any, bounds: Bounds, folder: str = "") -> Any:
    """The AutoscalingConfig of a model's deployment.

    Args:
        card: of `AnyScaling`.
        folder: where decisions are kept, see `scaling_folder`.
    """
    from ray.serve.config import AutoscalingConfig, AutoscalingPolicy

    arguments = {"model": model, "card": card.model_dump(mode="json"), "bounds": bounds._asdict(), "folder": folder}
    policy = AutoscalingPolicy(policy_function=f"{__name__}:{ScalingPolicy.__name__}", policy_kwargs=arguments)
    with warnings.catch_warnings():
        # its successors are variables of the environment that Ray 2.60 does not read
        warnings.simplefilter("ignore", DeprecationWarning)
        return AutoscalingConfig(
            min_replicas=bounds.min + bounds.spare,
            max_replicas=bounds.max + bounds.spare,
            # how often replicas report, and a gateway that waits for a first one
            metrics_interval_s=REPORT_S,
            look_back_period_s=20 * REPORT_S,
            # decided with reasons by the policy
            upscale_delay_s=0,
            downscale_delay_s=0,
            policy=policy,
        )


def _gauges() -> dict[str, Any]:
    """Figures for Prometheus on Ray's metrics port; only in a process of Ray's."""
    import ray

    if not ray.is_initialized():
        return {}
    from ray.util.metrics import Gauge

    tell = {"needed": "replicas that the load needs", "replicas": "replicas asked for, spares included"}
    return {name: Gauge(f"raylm_scaling_{name}", tell.get(name, name.replace("_", " ")), tag_keys=("model",)) for name in FIGURES}
