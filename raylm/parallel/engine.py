"""The engine of a wrapped model and its optimizer: accumulate, step, measure, stream weights, save and restore state."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from typing import TYPE_CHECKING, Any, NamedTuple

from raylm.model.head import LOGPROBS, Asks
from raylm.model.scores import Inputs, Scores, answer
from raylm.parallel.context.rows import ContextShard, context_of
from raylm.parallel.mesh import Grid
from raylm.parallel.optimizers.clip import clip_grad_norm
from raylm.parallel.optimizers.moments import begin_moments
from raylm.parallel.optimizers.schedule import Scheduled

if TYPE_CHECKING:
    import torch

    from raylm.parallel.start import WeightLoader

# what the loop makes of the scores of micro batch i: `total` (this rank's share of the global mean) and `metrics` (sums)
LossOf = Callable[[int, Scores], Any]


class Stats(NamedTuple):
    """What one optimizer step did. `finite` is False when the step was not taken because a gradient was NaN or infinite."""

    grad_norm: float
    lr: float
    finite: bool


class Recipe(NamedTuple):
    """How an engine computes and updates."""

    optimizer: Scheduled | None
    """None: the model is only asked, never updated."""
    steps: int
    """Length of the schedule."""
    dtype: str = "float32"
    """Dtype of compute."""
    backend: str = "auto"
    """Way of the cross-entropy, see `raylm.model.head`."""
    ema: float | None = None
    """Decay of the moving average of weights that is kept beside them."""
    weight_loader: WeightLoader | None = None
    """Gives the parameters of a cut model memory and weights; None: they have them."""

    def compute_dtype(self) -> torch.dtype | None:
        """The dtype to cast to; None computes in the weights' own."""
        import torch

        return {"float32": None, "bfloat16": torch.bfloat16, "float8": torch.bfloat16}[self.dtype]


class Engine:
    """One model across its ranks, the same for every strategy: a strategy only wraps the model.

    Args:
        model: the wrapped model; its gradients are averaged over `grid.averaged` ranks by the wrapper.
        bare: the model below the wrapper, in Hugging Face's names.
        autocast: dtype of compute where the wrapper itself does not cast; None computes in the weights' own dtype.
    """

    def __init__(
        self, model: torch.nn.Module, bare: torch.nn.Module, grid: Grid, recipe: Recipe, autocast: torch.dtype | None = None
    ) -> None:
        self.model: Any = model
        self.bare: Any = bare
        self.grid = grid
        self.context = context_of(bare, grid)
        self.done = 0
        self.tick: Callable[[], None] = _nothing
        """Called in what takes long without gradients, for each part of it: who watches sees that it gets on."""
        self.cuts_gradients = False
        """Whether each micro batch's gradients are cut over ranks at once; else all of them lie whole on each until the last."""
        self._drops = True
        self._recipe, self._autocast = recipe, autocast
        self.optimizer = recipe.optimizer.make(bare) if recipe.optimizer else None
        self.ema = self._averaging(recipe.ema) if recipe.ema and recipe.optimizer else None

    @property
    def rank(self) -> int:
        return self.grid.rank

    @property
    def world(self) -> int:
        return self.grid.world

    @property
    def device(self) -> torch.device:
        return next(self.bare.parameters()).device

    def drop_nothing(self) -> Engine:
        """Train without dropout of the model and of adapters, and without what else only training mode draws."""
        self._drops = False
        self.bare.eval()
        return self

    def accumulate(self, inputs: Sequence[Inputs], loss: LossOf, asks: Asks = LOGPROBS) -> dict[str, float]:
        """Forward and backward passes of one step; gradients add up until `step`.

        Args:
            inputs: this rank's micro batches; equally many on every rank, because ranks meet in each.
            loss: called with the number and the scores of each micro batch; its `total` is this rank's share of the
                global mean (a sum divided by the global weight).
            asks: what the model's head is asked.

        Returns:
            The metrics summed over micro batches and ranks.
        """
        sums: dict[str, Any] = {}
        for index, one in enumerate(inputs):
            self._sync_gradients(last=index == len(inputs) - 1)
            with self._compute():
                made = loss(index, self._ask(one, asks))
            # wrappers average over ranks, so the average is undone here
            self._backward(made.total * self.grid.averaged)
            _add(sums, made.metrics)
        return self._summed(sums)

    def measure(self, inputs: Sequence[Inputs], loss: LossOf, asks: Asks = LOGPROBS) -> dict[str, float]:
        """The metrics of `loss` summed over micro batches and ranks; the model learns nothing and drops nothing out."""
        sums: dict[str, Any] = {}
        for index, scores in enumerate(self.forward(inputs, asks)):
            _add(sums, loss(index, scores).metrics)
        return self._summed(sums)

    def forward(self, inputs: Sequence[Inputs], asks: Asks = LOGPROBS) -> list[Scores]:
        """Scores of each micro batch, without gradients and dropout."""
        import torch

        was = self.model.training
        self.model.eval()
        with torch.no_grad():
            found = []
            for one in inputs:
                self.tick()
                with self._compute():
                    found.append(self._ask(one, asks))
        self.model.train(was)
        if not self._drops:
            self.bare.eval()
        # no backward pass follows that would do it, and a step checkpoint may be read next
        self._let_go()
        return found

    def step(self, take: Callable[[float], bool] | None = None) -> Stats:
        """Clip, update, clear gradients. A gradient that is not finite changes nothing.

        Args:
            take: asked with the gradient norm before the update; where it says no, weights, optimizer and `done` stay.
        """
        spec = self._recipe.optimizer
        assert spec is not None and self.optimizer is not None
        norm = clip_grad_norm([p for p in self.model.parameters() if p.requires_grad], spec.clip, self.grid)
        lr = spec.lr_at(self.done, self._recipe.steps)
        finite = norm == norm and norm not in (float("inf"), float("-inf"))
        taken = take is None or take(norm)
        if finite and taken:
            for group in self.optimizer.param_groups:
                group["lr"] = lr * group.get("lr_scale", 1.0)
            self.optimizer.step()
            if self.ema:
                self.ema.update()
        self.optimizer.zero_grad(set_to_none=True)
        self.done += taken
        return Stats(norm, lr, finite)

    def pass_step(self) -> None:
        """Count a step without an update, so that the learning rate's schedule goes on."""
        self.done += 1

    def clear(self) -> None:
        """Forget gradients that were accumulated."""
        assert self.optimizer is not None
        self.optimizer.zero_grad(set_to_none=True)

    def most(self, values: Iterable[float]) -> list[float]:
        """The largest of each value over all ranks; what every rank then decides from it is the same everywhere."""
        import torch
        import torch.distributed as dist

        largest = torch.tensor(list(values), dtype=torch.float64)
        if self.world > 1:
            largest = largest.to(self.device)
            dist.all_reduce(largest, op=dist.ReduceOp.MAX)
        return largest.tolist()

    def sum(self, values: Iterable[float]) -> list[float]:
        """Each value summed over the data ranks, in float64; ranks that share rows count once."""
        import torch
        import torch.distributed as dist

        total = torch.tensor(list(values), dtype=torch.float64)
        if self.grid.data_world > 1:
            total = total.to(self.device)
            dist.all_reduce(total, group=self.grid.group("replicas", "shards"))
        return total.tolist()

    def stream(self) -> Iterator[tuple[str, torch.Tensor]]:
        """The whole model's tensors one after the other on rank 0's CPU, by name, less a value head beside it; nothing on other
        ranks. Every rank must call and iterate to the end: they meet in each tensor, and no rank holds more than one."""
        from raylm.model.value_beside import own_tensors
        from raylm.parallel.checkpoints.whole import whole_tensors

        for name, tensor in own_tensors(whole_tensors(self.bare)):
            self.tick()
            if self.rank == 0:
                yield name, tensor.cpu()

    def weights(self) -> dict[str, torch.Tensor]:
        """The whole model's tensors on rank 0's CPU, by name; {} on other ranks. Every rank must call."""
        return {name: tensor.clone() for name, tensor in self.stream()}

    def state(self) -> dict[str, Any]:
        """Model and optimizer by name, every rank its shard: what a step checkpoint holds. Frozen weights are left out."""
        from torch.distributed.checkpoint.state_dict import get_state_dict

        assert self.optimizer is not None
        begin_moments(self.optimizer)
        model, optimizer = get_state_dict(self.model, self.optimizer, options=_options())
        # torch leaves frozen weights out under one name only: an output head tied to the embedding would stay, whole
        frozen = {name for name, p in self.bare.named_parameters(remove_duplicate=False) if not p.requires_grad}
        model = {name: tensor for name, tensor in model.items() if name not in frozen}
        return {"model": model, "optimizer": optimizer, **({"ema": self.ema.state()} if self.ema else {})}

    def restore(self, state: dict[str, Any]) -> None:
        """Take over what `state` returned (here or on other ranks) and a reader has filled."""
        from torch.distributed.checkpoint.state_dict import set_state_dict

        assert self.optimizer is not None
        set_state_dict(
            self.model, self.optimizer, model_state_dict=state["model"], optim_state_dict=state["optimizer"], options=_options()
        )
        if self.ema:
            self.ema.restore(state["ema"])

    def trainable(self) -> list[tuple[str, Any]]:
        """Parameters that are updated, by Hugging Face's names; this rank's shards where they are sharded."""
        return [(name, p) for name, p in self.bare.named_parameters() if p.requires_grad]

    def _averaging(self, decay: float) -> Any:
        # imported here: a config that names this engine's card must load where there is no torch
        from raylm.parallel.optimizers.ema import Ema

        return Ema(self.trainable(), decay)

    @contextmanager
    def averages(self) -> Iterator[None]:
        """Context in which the weights are their moving averages, where these are kept."""
        if self.ema is None:
            yield
            return
        self._let_go()
        with self.ema.swapped():
            try:
                yield
            finally:
                self._let_go()

    def _let_go(self) -> None:
        """Free gathered weights that a forward pass left behind: they would stay what they are when their shards change."""
        from torch.distributed.fsdp import FSDPModule

        for module in self.model.modules():
            if isinstance(module, FSDPModule):
                module.reshard()

    def _ask(self, inputs: Inputs, asks: Asks) -> Scores:
        part, join = self._share(inputs)
        return Scores.of(join(self._answer(part, asks)), asks)

    def _share(self, inputs: Inputs) -> ContextShard:
        """This rank's tokens of its rows: all, where no context ranks share them."""
        return self.context.shard(inputs) if self.context else ContextShard(inputs, lambda answer_BTC: answer_BTC)

    def _answer(self, inputs: Inputs, asks: Asks) -> torch.Tensor:
        return answer(self.model, inputs, asks, self._recipe.backend)

    def _sync_gradients(self, last: bool) -> None:
        """Ranks exchange gradients in the last micro batch's backward pass alone, or cut them in each: then replicas wait."""
        # before the forward pass: it is there that DDP decides what its backward pass does
        if self.cuts_gradients:
            self.model.set_requires_all_reduce(last)
        elif hasattr(self.model, "set_requires_gradient_sync"):
            self.model.set_requires_gradient_sync(last)
        elif hasattr(self.model, "require_backward_grad_sync"):
            self.model.require_backward_grad_sync = last

    def _backward(self, loss: torch.Tensor) -> None:
        loss.backward()

    def _compute(self) -> Any:
        import torch

        return nullcontext() if self._autocast is None else torch.autocast(self.device.type, self._autocast)

    def _summed(self, sums: dict[str, Any]) -> dict[str, float]:
        return dict(zip(sums, self.sum(float(value) for value in sums.values()), strict=True))


def _nothing() -> None:
    """Where nobody watches."""


def _add(sums: dict[str, Any], metrics: dict[str, Any]) -> None:
    # tensors, not floats: a float would make the host wait for the device in each micro batch
    for name, value in metrics.items():
        sums[name] = sums[name] + value.double() if name in sums else value.double()


def _options() -> Any:
    from torch.distributed.checkpoint.state_dict import StateDictOptions

    # frozen weights come from the base checkpoint again: a LoRA step checkpoint holds the adapter alone
    return StateDictOptions(ignore_frozen_params=True, strict=False, flatten_optimizer_state_dict=True)
