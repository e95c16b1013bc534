"""The engine of a model under DeepSpeed's ZeRO."""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

from raylm.core.errors import ConfigError
from raylm.core.machine import instruction_set
from raylm.model.adapters.checks import read_aside
from raylm.model.head import head_of
from raylm.parallel.engine import Engine, Recipe, Stats
from raylm.parallel.mesh import Grid
from raylm.parallel.zero.state import Partitioned, restore, run_of, state, stream

if TYPE_CHECKING:
    import torch


class ZeroEngine(Engine):
    """The engine's verbs over `deepspeed.initialize`, inside the process group that is there.

    Args:
        model: the whole model, on its device, the same on every rank.
        settings: DeepSpeed's configuration.

    Raises:
        ConfigError: the recipe or the model asks for what ZeRO cannot do.
    """

    optimizer: Any

    def __init__(self, model: torch.nn.Module, grid: Grid, recipe: Recipe, settings: dict[str, Any]) -> None:
        _check(model, recipe, settings)
        head_of(model)
        super().__init__(model, model, grid, recipe)
        names = {id(p): name for name, p in model.named_parameters()}
        groups = self.optimizer.param_groups if self.optimizer else []
        # before DeepSpeed puts vectors in their place
        names_in_groups = [[names[id(p)] for p in group["params"]] for group in groups]
        self._device = next(model.parameters()).device
        self._take: Callable[[float], bool] | None = None
        self._taken: bool | None = None
        update = self.optimizer.step if self.optimizer else None
        if self.optimizer:
            self.optimizer.step = self._update_if_taken
        library = _library(self._device)
        # parts of DeepSpeed print their memory
        with redirect_stdout(sys.stderr):
            self.model, *_ = library.initialize(model=model, optimizer=self.optimizer, config=settings)
        self._held = Partitioned(model, self.model.optimizer, self.optimizer, names_in_groups, update, grid, self._device)

    @property
    def device(self) -> torch.device:
        return self._device

    def step(self, take: Callable[[float], bool] | None = None) -> Stats:
        """Clip, update, clear gradients. A gradient that is not finite changes nothing; its norm is then infinite.

        Args:
            take: asked with the gradient norm before the update; where it says no, weights, optimizer and `done` stay.
        """
        spec = self._recipe.optimizer
        assert spec is not None and self.optimizer is not None
        lr = spec.lr_at(self.done, self._recipe.steps)
        for group in self.optimizer.param_groups:
            group["lr"] = lr * group.get("lr_scale", 1.0)
        self._take, self._taken = take, None
        self.model.step()
        norm = float(self.model.get_global_grad_norm())
        finite = bool(self.model.was_step_applied())
        # one that is not finite never came to the optimizer
        taken = self._is_taken(norm)
        self.done += taken
        return Stats(norm, lr, finite)

    def clear(self) -> None:
        """Forget gradients that were accumulated."""
        self.step(take=lambda norm: False)

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """As of every engine; trained weights are their float32 masters. On the other ranks one tensor at a time is whole."""
        return stream(self._held)

    def state(self) -> dict[str, Any]:
        """Model and optimizer by name, every rank its rows: FSDP reads what ZeRO wrote, and the other way round."""
        return state(self._held)

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned (here or on other ranks) and a reader has filled."""
        restore(self._held, state)

    def trainable(self) -> list[tuple[str, Any]]:
        """This rank's runs of the parameters that are updated, float32, by Hugging Face's names."""
        runs = ((name, run_of(self._held, p)) for name, p in self.bare.named_parameters() if p.requires_grad)
        return [(name, run[0]) for name, run in runs if run]

    def _sync_gradients(self, last: bool) -> None:
        self.model.set_gradient_accumulation_boundary(last)

    def _backward(self, loss: torch.Tensor) -> None:
        # losses are shares of the global mean already
        self.model.backward(loss, scale_wrt_gas=False)

    def _update_if_taken(self, closure: Any = None) -> None:
        """In place of the optimizer's own step: DeepSpeed calls it, vector by vector, with finite and clipped gradients.

        Without an update it goes on to clear gradients, and hands out weights that are what they were.
        """
        if self._is_taken(self._held.grad_norm()):
            self._held.update()

    def _is_taken(self, norm: float) -> bool:
        if self._taken is None:
            self._taken = self._take is None or self._take(norm)
        return self._taken


def _check(model: torch.nn.Module, recipe: Recipe, settings: dict[str, Any]) -> None:
    spec: Any = recipe.optimizer
    if spec is not None and not spec.elementwise:
        raise ConfigError(
            "deepspeed flattens matrices into vectors and shards these, so the optimizer must treat each number by itself",
            where=f"optimizer.kind = {spec.kind}",
            next='optimizer.kind = "adamw" (32 bits) or "lion", or strategy.kind = "fsdp"',
        )
    if recipe.ema:
        raise ConfigError("deepspeed keeps no moving average of weights", where="ema", next='strategy.kind = "fsdp"')
    if settings["zero_optimization"]["stage"] == 3 and (held := read_aside(getattr(model, "adapted", {}))):
        raise ConfigError(
            f"zero 3 gathers a layer's weights when the layer itself is called, and the adapter of {held[0]} reads them aside",
            where="strategy.zero",
            next='strategy.zero = 2, or strategy.kind = "fsdp"',
        )


def _library(device: torch.device) -> Any:
    """DeepSpeed, which reads from the environment of this rank where it should compute."""
    os.environ |= {"DS_ACCELERATOR": device.type, "LOCAL_RANK": str(device.index or 0)}
    # it compiles for the machine it runs on; in a home that machines of several makes share, another's would be an illegal
    # instruction
    os.environ.setdefault("TORCH_EXTENSIONS_DIR", str(Path.home() / ".cache" / "torch_extensions" / f"cpu-{instruction_set()}"))
    import deepspeed
    from deepspeed.accelerator import get_accelerator
    from deepspeed.utils import logger

    logger.setLevel("WARNING")
    # it calls these by torch's old names, in every step
    warnings.filterwarnings("ignore", message=r"`torch\.distributed\.\w+_tensor` is deprecated", category=FutureWarning)
    accelerator: Any = get_accelerator()
    if (found := accelerator.device_name()) != device.type:
        raise ConfigError(f"DeepSpeed was loaded in this process for {found}, the model lies on {device.type}")
    # an extension that only its inference asks for; it would be compiled now, which takes a compiler and half a minute
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    return deepspeed
