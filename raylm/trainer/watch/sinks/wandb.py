"""The `wandb` sink: a Weights & Biases run, sent, or kept in the artifact's `wandb/` to be sent later."""

from __future__ import annotations

from typing import Any, Literal

from raylm.trainer.watch.sinks.sink import Run, Sink, Writer, needed


class Wandb(Sink):
    """Weights & Biases; the key comes from WANDB_API_KEY or `wandb login`. Offline runs are sent by `wandb sync`."""

    kind: Literal["wandb"] = "wandb"
    project: str = "raylm"
    """Project of the run."""
    offline: bool = False
    """Write files only."""

    def open(self, run: Run) -> Writer:
        module = needed("wandb", "wandb")
        made = module.init(
            project=self.project,
            name=run.name,
            # the same stage goes on in the same run
            id=run.name.replace("/", "-"),
            resume="allow",
            dir=run.folder,
            config=run.config,
            mode="offline" if self.offline else "online",
            settings=module.Settings(silent=True, console="off"),
        )
        return _Run(made)


class _Run:
    def __init__(self, run: Any) -> None:
        self._run = run

    def write(self, step: int, values: dict[str, float]) -> None:
        self._run.log(values, step=step)

    def close(self) -> None:
        self._run.finish()
