"""What every metrics sink has: opened by a run, written row by row, closed at the end."""

from __future__ import annotations

from typing import Any, ClassVar, NamedTuple, Protocol

from raylm.core.config import Config
from raylm.core.errors import ConfigError


class Run(NamedTuple):
    """The run whose metrics are written."""

    name: str
    """Job and stage: `quickstart/base`."""
    folder: str
    """A local folder of the stage, for sinks that write files."""
    config: dict[str, Any]
    """The stage's table."""


class Writer(Protocol):
    """An open sink."""

    def write(self, step: int, values: dict[str, float]) -> None:
        """Numbers of one step."""

    def close(self) -> None:
        """Everything written is where it belongs."""


class Sink(Config):
    """Where metrics go beside metrics.jsonl. It runs at the driver; one that fails there is dropped, and training goes on."""

    goes_on_in: ClassVar[str] = ""
    """Folder below the run's whose files a resumed run goes on with; of a remote run they are fetched first."""

    def open(self, run: Run) -> Writer:
        """The sink, ready to write. Raises ConfigError when its package is missing."""
        raise NotImplementedError


def needed(package: str, kind: str) -> Any:
    """The module `package`. Raises ConfigError that names the command which installs it."""
    from importlib import import_module

    try:
        return import_module(package)
    except ImportError as cause:
        top = package.split(".")[0]
        raise ConfigError(f"the sink {kind!r} needs the package {top}", next=f"pip install {top}") from cause
