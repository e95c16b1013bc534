"""Passes the metric rows of a run to sinks, alerts and the progress line. Runs at the driver."""

from __future__ import annotations

import os
import shutil
import tempfile
from collections.abc import Callable
from typing import Any

from pydantic import Field

from raylm.core.config import Config, resolve
from raylm.core.storage import Folder
from raylm.trainer.watch.alerts import Alarm, Alert, Alerts
from raylm.trainer.watch.profile import Profile
from raylm.trainer.watch.sinks import AnySink
from raylm.trainer.watch.sinks.sink import Run


class Watch(Config):
    """What is told of a run beside metrics.jsonl, the report and the line on the terminal."""

    sinks: list[AnySink] = []
    """Where metrics also go: tensorboard, wandb, mlflow, prometheus."""
    alerts: Alerts = Alerts()
    """Limits beyond which the run is reported."""
    profile: Profile | None = None
    """Steps that are looked at operation by operation."""
    every: int = Field(default=1, gt=0)
    """Steps between rows that go to sinks."""


class Watching:
    """The open sinks and the alarm of one run.

    Args:
        run: its folder may be remote; sinks are then given a local one, whose files are uploaded at the close.
        say: takes one line for people.
    """

    def __init__(self, cfg: Watch, run: Run, say: Callable[[str], None]) -> None:
        self._cfg, self._say = cfg, say
        self.alarm = Alarm(cfg.alerts, run.name)
        cards = [resolve(card) for card in cfg.sinks]
        self._out = self._local = Folder(run.folder)
        if cards and not self._out.is_local:
            self._local = Folder(tempfile.mkdtemp(prefix="raylm-sinks-"))
            run = run._replace(folder=self._local.uri)
            # a custom card need not be a Sink
            for name in filter(None, (getattr(card, "goes_on_in", "") for card in cards)):
                _copy(self._out / name, self._local / name)
        # opened before training starts: a missing package is found now and not in an hour
        self._writers = [(card.kind, card.open(run)) for card in cards]
        self.dropped: dict[str, str] = {}

    def row(self, step: int, values: dict[str, Any]) -> list[Alert]:
        """Write one row to all sinks; returns what is newly wrong."""
        new = self.alarm.look(step, values)
        for alert in new:
            self._say(f"step {step}: {alert.kind}: {alert.said}")
        if step % self._cfg.every == 0:
            numbers = {name: float(value) for name, value in values.items() if isinstance(value, (int, float))}
            for kind, writer in self._writers:
                self._try(kind, lambda writer=writer: writer.write(step, numbers))
        return new

    def close(self) -> None:
        """Say what was counted over the run; close all sinks: their files are in the run's folder then."""
        for alert in self.alarm.end():
            self._say(alert.said)
        for kind, writer in self._writers:
            self._try(kind, writer.close)
        self._writers = []
        if self._local is not self._out:
            self._upload()

    def _upload(self) -> None:
        """What cannot be uploaded stays on this machine: a run must not end because of it."""
        try:
            _copy(self._local, self._out)
        except Exception as cause:  # object stores raise classes of their own
            self._say(f"the sinks' files stay in {self._local.uri}: {cause}")
        else:
            shutil.rmtree(self._local.uri, ignore_errors=True)
            self._local = self._out

    def _try(self, kind: str, call: Callable[[], None]) -> None:
        """A sink that fails is told of once and dropped: a run must not end because a dashboard did."""
        if kind in self.dropped:
            return
        try:
            call()
        except Exception as cause:  # services raise classes of their own
            self.dropped[kind] = str(cause)
            self._say(f"the sink {kind} is dropped: {cause}")


def _copy(source: Folder, target: Folder) -> None:
    for name in source.files():
        # wandb links to logs outside its folder, and to its own files a second time
        if not (source.is_local and os.path.islink(source.path(name))):
            target.write(name, source.read(name))
