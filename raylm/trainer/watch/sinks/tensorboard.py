"""The `tensorboard` sink: event files in the artifact's `tensorboard/`."""

from __future__ import annotations

from typing import Any, Literal

from raylm.trainer.watch.sinks.sink import Run, Sink, Writer, needed


class Tensorboard(Sink):
    """Event files: `tensorboard --logdir runs/JOB`."""

    kind: Literal["tensorboard"] = "tensorboard"

    def open(self, run: Run) -> Writer:
        return _Events(needed("tensorboard.summary.writer.event_file_writer", "tensorboard"), f"{run.folder}/tensorboard")


class _Events:
    def __init__(self, module: Any, folder: str) -> None:
        self._file = module.EventFileWriter(folder)

    def write(self, step: int, values: dict[str, float]) -> None:
        import time
        from importlib import import_module

        # made by protobuf, so the modules hold them only at run time
        event, summary = (import_module(f"tensorboard.compat.proto.{name}_pb2") for name in ("event", "summary"))
        made = [summary.Summary.Value(tag=name, simple_value=value) for name, value in values.items()]
        self._file.add_event(event.Event(wall_time=time.time(), step=step, summary=summary.Summary(value=made)))

    def close(self) -> None:
        self._file.close()
