"""Takes a wrapped model and an optimizer, leaves the few verbs a loop needs: backward, step, sum, weights, save, load."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.core.errors import StorageError
from raylm.core.storage import Folder
from raylm.parallel.optimizer import AdamW

if TYPE_CHECKING:
    import torch

DONE = "done.json"


class Stats(NamedTuple):
    """What one optimizer step did. `finite` is False when the step was not taken because a gradient was NaN or infinite."""

    grad_norm: float
    lr: float
    finite: bool


class Engine:
    """One model across its ranks, the same for every strategy: a strategy only wraps the model.

    Args:
        model: the wrapped model; its gradients are averaged over ranks by the wrapper.
        bare: the model below the wrapper, in Hugging Face's names.
        optimizer: the spec; the optimizer is made over `model`'s trainable parameters.
        steps: length of the schedule.
        autocast: dtype of compute where the wrapper itself does not cast; None computes in the weights' own dtype.
    """

    def __init__(
        self, model: torch.nn.Module, bare: torch.nn.Module, optimizer: AdamW, steps: int, autocast: torch.dtype | None = None
    ) -> None:
        import torch.distributed as dist

        self.model: Any = model
        self.bare: Any = bare
        self.world = dist.get_world_size() if dist.is_initialized() else 1
        self.rank = dist.get_rank() if dist.is_initialized() else 0
        self.done = 0
        self._spec, self._steps, self._autocast = optimizer, steps, autocast
        self._optimizer = optimizer.make(model)

    def compute(self, last: bool = True) -> Any:
        """Context of a forward pass: casts to the compute dtype where the wrapper does not.

        Args:
            last: whether this is the last micro batch of a step; ranks exchange gradients only in its backward pass.
        """
        import torch

        # before the forward pass: it is there that DDP decides what its backward pass does
        if hasattr(self.model, "set_requires_gradient_sync"):
            self.model.set_requires_gradient_sync(last)
        elif hasattr(self.model, "require_backward_grad_sync"):
            self.model.require_backward_grad_sync = last
        if self._autocast is None:
            return nullcontext()
        return torch.autocast(next(self.bare.parameters()).device.type, self._autocast)

    def backward(self, loss: torch.Tensor) -> None:
        """Add the gradient of `loss`, which was computed inside `compute`.

        `loss` is this rank's share of the global mean (its sum divided by the global weight). Wrappers average over
        ranks, so the average is undone here.
        """
        (loss * self.world).backward()

    def step(self) -> Stats:
        """Clip, update, clear gradients. A gradient that is not finite changes nothing."""
        import torch

        norm: Any = torch.nn.utils.clip_grad_norm_([p for p in self.model.parameters() if p.requires_grad], self._spec.clip)
        norm = float(norm.full_tensor() if hasattr(norm, "full_tensor") else norm)
        lr = self._spec.lr_at(self.done, self._steps)
        finite = norm == norm and norm not in (float("inf"), float("-inf"))
        if finite:
            for group in self._optimizer.param_groups:
                group["lr"] = lr
            self._optimizer.step()
        self._optimizer.zero_grad(set_to_none=True)
        self.done += 1
        return Stats(norm, lr, finite)

    def sum(self, values: Iterable[float]) -> list[float]:
        """Each value summed over ranks, in float64."""
        import torch
        import torch.distributed as dist

        total = torch.tensor(list(values), dtype=torch.float64)
        if self.world > 1:
            device = next(self.bare.parameters()).device
            total = total.to(device)
            dist.all_reduce(total)
        return total.tolist()

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole model's tensors on rank 0's CPU, by name; {} on other ranks. Every rank must call."""
        from torch.distributed.checkpoint.state_dict import StateDictOptions, get_model_state_dict

        options = StateDictOptions(full_state_dict=True, cpu_offload=True)
        weights: Any = get_model_state_dict(self.model, options=options)
        return weights

    def save(self, at: Folder, facts: dict[str, Any]) -> None:
        """Write model and optimizer, every rank its shard; `done.json` with `facts` comes last and makes it whole."""
        import torch.distributed as dist
        from torch.distributed.checkpoint.api import CheckpointException
        from torch.distributed.checkpoint.state_dict_saver import save

        try:
            at.make()
            save(self._state(), storage_writer=_writer(at))
        except CheckpointException as cause:
            # name the rank's own reason (disk full, not allowed) rather than the collective's summary
            reason = next(iter(cause.failures.values()))[0]
            raise StorageError(
                f"a step checkpoint could not be written: {reason}",
                where=at.uri,
                next="free space, then run the same command: it goes on from the checkpoint before",
            ) from cause
        if self.world > 1:
            dist.barrier()
        if self.rank == 0:
            at.write_json(DONE, {"step": self.done, **facts})

    def load(self, at: Folder) -> dict[str, Any]:
        """Read what `save` wrote, onto any number of ranks; returns its facts."""
        from torch.distributed.checkpoint.state_dict import set_state_dict
        from torch.distributed.checkpoint.state_dict_loader import load

        state = self._state()
        load(state, storage_reader=_reader(at))
        set_state_dict(
            self.model, self._optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=_options()
        )
        facts = at.read_json(DONE)
        self.done = facts["step"]
        return facts

    def _state(self) -> dict[str, Any]:
        from torch.distributed.checkpoint.state_dict import get_state_dict

        model, optimizer = get_state_dict(self.model, self._optimizer, options=_options())
        # torch leaves frozen weights out under one name only: an output head tied to the embedding would stay, whole
        frozen = {name for name, p in self.bare.named_parameters(remove_duplicate=False) if not p.requires_grad}
        model = {name: tensor for name, tensor in model.items() if name not in frozen}
        return {"model": model, "optimizer": optimizer}


def newest_checkpoint(work: Folder) -> Folder | None:
    """The last whole step checkpoint below `work`; one without `done.json` was cut short and does not count."""
    steps = sorted({name.split("/")[0] for name in work.files() if name.endswith(f"/{DONE}")}) if work.exists() else []
    return work / steps[-1] if steps else None


def prune_checkpoints(work: Folder, keep: int) -> None:
    """Remove all but the `keep` newest whole step checkpoints, and what was cut short before them."""
    if not work.exists():
        return
    whole = sorted({name.split("/")[0] for name in work.files() if name.endswith(f"/{DONE}")})
    every = sorted({name.split("/")[0] for name in work.files() if name.startswith("step-")})
    for name in every:
        if whole and name not in whole[-keep:] and name < whole[-1]:
            work.remove(name)


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    # frozen weights come from the base checkpoint again: a LoRA step checkpoint holds the adapter alone
    return StateDictOptions(ignore_frozen_params=True, strict=False)


def _writer(at: Folder) -> Any:
    if at.is_local:
        from torch.distributed.checkpoint.filesystem import FileSystemWriter

        return FileSystemWriter(at.uri)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecWriter

    return FsspecWriter(at.uri)


def _reader(at: Folder) -> Any:
    if at.is_local:
        from torch.distributed.checkpoint.filesystem import FileSystemReader

        return FileSystemReader(at.uri)
    from torch.distributed.checkpoint._fsspec_filesystem import FsspecReader

    return FsspecReader(at.uri)
